"""The licences of all crates that are linked into the binary, with their texts: licences.py SOURCE

The list is that of Cargo.lock for Linux; equal texts are printed once.
"""

import json
import os
import re
import subprocess
import sys

TEXTS = re.compile(r"(LICEN[CS]E|COPYING|COPYRIGHT|NOTICE|UNLICENSE)([-._].*)?$", re.IGNORECASE)
# Nothing of these is compiled into a program.
WITHOUT = {"benches", "examples", "test", "tests"}
# C libraries without a licence in the topmost folder of their crate: their authors.
EXPECTED = ["Jason Evans", "fiat-crypto"]


def linked(metadata):
    """The ids of the crates that the program depends on, without those that only build it or test it."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    todo = [metadata["resolve"]["root"]]
    found = set()
    while todo:
        crate = todo.pop()
        if crate in found:
            continue
        found.add(crate)
        for dependency in nodes[crate]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                todo.append(dependency["pkg"])
    return found - {metadata["resolve"]["root"]}


def texts(package):
    folder = os.path.dirname(package["manifest_path"])
    names = {package["license_file"]} - {None}
    # C libraries are in folders of the crates that build them, with licences of their own.
    for place, folders, files in os.walk(folder):
        folders[:] = [each for each in folders if each not in WITHOUT]
        names.update(os.path.relpath(os.path.join(place, each), folder) for each in files if TEXTS.match(each))
    for name in sorted(names):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                yield name, "\n".join(line.rstrip() for line in file.read().strip().splitlines())


def main():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]
    metadata = json.loads(subprocess.run(command, cwd=sys.argv[1], check=True, capture_output=True).stdout)
    crates = linked(metadata)
    packages = [package for package in metadata["packages"] if package["id"] in crates]
    packages.sort(key=lambda package: (package["name"], package["version"]))
    print("tidegate contains these crates. Their licences, as SPDX expressions:\n")
    by_text = {}
    for package in packages:
        title = f"{package['name']} {package['version']}"
        licence = package["license"]
        if not licence:
            sys.exit(f"{title} has no licence")
        print(f"  {title}: {licence}")
        for name, text in texts(package):
            by_text.setdefault(text, []).append(f"{title} ({name})")
    print("  Rust's standard library: MIT OR Apache-2.0")
    for author in EXPECTED:
        if not any(author in text for text in by_text):
            sys.exit(f"the licence of {author} is missing")
    for text, titles in sorted(by_text.items(), key=lambda entry: entry[1]):
        print(f"\n{'=' * 80}\n" + "\n".join(titles) + f"\n{'-' * 80}\n\n{text}")


main()
