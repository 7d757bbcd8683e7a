"""Links in the documents of a folder: links.py [--cut] FOLDER

Reports each link to a file of the folder that is not there, and fails then. With --cut, such a link becomes its text.
"""

import os
import re
import sys

# A link or a picture in Markdown; the target may have an anchor.
LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^()\s]+)\)")


def is_there(folder, page, target):
    """Whether a target is outside of the folder by intention, or exists in it."""
    path = target.split("#")[0]
    if re.match(r"[a-z]+:", target) or not path:
        return True
    full = os.path.realpath(os.path.join(os.path.dirname(page), path))
    return full.startswith(os.path.realpath(folder) + os.sep) and os.path.exists(full)


def main():
    arguments = sys.argv[1:]
    cut = "--cut" in arguments
    folder = arguments[-1]
    links = 0
    missing = []
    for place, _, names in sorted(os.walk(folder)):
        for name in sorted(name for name in names if name.endswith(".md")):
            page = os.path.join(place, name)
            with open(page, encoding="utf-8") as file:
                text = file.read()

            def checked(match):
                nonlocal links
                links += 1
                if is_there(folder, page, match[3]):
                    return match[0]
                missing.append(f"{os.path.relpath(page, folder)}: {match[3]}")
                return match[2]

            changed = LINK.sub(checked, text)
            if cut and changed != text:
                with open(page, "w", encoding="utf-8") as file:
                    file.write(changed)
    if cut:
        print(f"{len(missing)} of {links} links lead to what is not packaged: cut")
    elif missing or not links:
        sys.exit("\n".join(missing) or "no links")


main()
