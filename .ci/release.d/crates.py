"""The crates that a binary lists (`cargo auditable`) are in the bill of materials, with their licences:
crates.py BINARY MATERIALS LICENCES"""

import json
import re
import subprocess
import sys
import tempfile
import zlib


def audited(binary):
    with tempfile.NamedTemporaryFile() as section:
        command = ["objcopy", "--dump-section", f".dep-v0={section.name}", binary, "/dev/null"]
        subprocess.run(command, check=True, capture_output=True)
        packages = json.loads(zlib.decompress(section.read()))["packages"]
    return {(it["name"], it["version"]) for it in packages if it.get("kind") != "build"}


def main():
    binary, materials, licences = sys.argv[1:]
    crates = {crate for crate in audited(binary) if crate[0] != "tidegate"}
    with open(materials, encoding="utf-8") as file:
        listed = json.load(file)
    if listed["bomFormat"] != "CycloneDX" or listed["metadata"]["component"]["name"] != "tidegate":
        sys.exit("the bill of materials is not that of tidegate")
    components = {(it["name"], it["version"]) for it in listed["components"]}
    with open(licences, encoding="utf-8") as file:
        licensed = set(re.findall(r"^  (\S+) (\S+): ", file.read(), re.MULTILINE))
    for kind, other in [("the bill of materials", components), ("the licences", licensed)]:
        if missing := crates - other:
            sys.exit(f"{kind}: {sorted(missing)} missing")
    if len(crates) < 100:
        sys.exit(f"only {len(crates)} crates")
    print(f"    {len(crates)} crates")


main()
