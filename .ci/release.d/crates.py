"""The crates that a binary lists (`cargo auditable`) are in the bill of materials, with their licences:
crates.py BINARY MATERIALS LICENCES"""

import json
import re
import subprocess
import sys
import zlib


def audited(binary):
    # Unlike objcopy, readelf knows the programs of other architectures.
    command = ["readelf", "--wide", "--sections", binary]
    sections = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    [(offset, size)] = re.findall(r" \.dep-v0 +\S+ +\S+ (\S+) (\S+) ", sections)
    with open(binary, "rb") as file:
        file.seek(int(offset, 16))
        packages = json.loads(zlib.decompress(file.read(int(size, 16))))["packages"]
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
