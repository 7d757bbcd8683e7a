"""Makes an OCI image layout, without a container engine: image.py WORK TARGET VERSION COMMIT OUT

One layer: the binary, the C library that it is linked to, CA certificates, and the few files that the C library reads. No
shell, no package manager; it runs as user 65532, and its root may be read-only. The same files give the same bytes.
OUT is an archive that `podman load`, `docker load` and `skopeo copy oci-archive:OUT …` read.
"""

import datetime
import glob
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile

EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])
USER = 65532
ARCHITECTURES = {"x86_64": ("amd64", "x86_64-linux-gnu"), "aarch64": ("arm64", "aarch64-linux-gnu")}
# What the C library loads while it runs, besides what the binary names.
LOADED_LATER = ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"]

FILES = {
    "etc/passwd": "root:x:0:0:root:/:/nonexistent\ntidegate:x:65532:65532:tidegate:/:/nonexistent\n",
    "etc/group": "root:x:0:\ntidegate:x:65532:\n",
    # A container engine mounts its own over this one.
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/os-release": 'NAME="tidegate image"\nID=tidegate\n',
}
# Owners and modes. The configuration is mounted over the first; the admin socket and certificates that tidegate obtains
# are in the next two.
FOLDERS = {
    "etc/tidegate": (0, 0o755),
    "run/tidegate": (USER, 0o750),
    "var/lib/tidegate": (USER, 0o700),
    "tmp": (0, 0o1777),
    "proc": (0, 0o555),
    "dev": (0, 0o755),
    "sys": (0, 0o555),
}


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def package(name, architecture, cache):
    """The files of a Debian package, unpacked, and its version."""
    folder = os.path.join(cache, f"{name}-{architecture}")
    if not os.path.isdir(folder):
        os.makedirs(cache, exist_ok=True)
        if architecture in ("all", run("dpkg", "--print-architecture").strip()):
            try:
                run("apt-get", "download", name, cwd=cache)
            except subprocess.CalledProcessError:
                # The lists are missing, or older than what the archive has.
                run("apt-get", "-qq", "update")
                run("apt-get", "download", name, cwd=cache)
        else:
            here = os.path.dirname(os.path.realpath(__file__))
            foreign = [os.path.join(here, "foreign-apt"), os.path.join(cache, "apt"), architecture]
            run(*foreign, "get", "download", f"{name}:{architecture}", cwd=cache)
        [file] = glob.glob(os.path.join(cache, f"{name}_*_{architecture}.deb"))
        run("dpkg-deb", "--extract", file, folder)
        with open(folder + ".version", "w", encoding="utf-8") as version:
            version.write(run("dpkg-deb", "--field", file, "Version").strip())
    with open(folder + ".version", encoding="utf-8") as version:
        return folder, version.read()


def needed(binary):
    """The libraries and the interpreter that a program names."""
    dynamic = run("readelf", "--wide", "--dynamic", "--program-headers", binary)
    libraries = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    return libraries, re.search(r"interpreter: (\S+)\]", dynamic)[1]


def library(folder, multiarch, name):
    for place in (f"lib/{multiarch}", f"usr/lib/{multiarch}"):
        path = os.path.join(folder, place, name)
        if os.path.exists(path):
            return os.path.realpath(path)
    return None


def contents(work, triple, cache):
    """What the layer has: path -> (bytes, mode); and the versions of what Debian has built."""
    architecture, multiarch = ARCHITECTURES[triple.split("-")[0]]
    binary = os.path.join(work, triple, "tidegate")
    libc, libc_version = package("libc6", architecture, cache)
    folders = [libc]
    versions = {"libc6": libc_version}
    libraries, interpreter = needed(binary)
    if "libgcc_s.so.1" in libraries:
        unwinder, versions["libgcc-s1"] = package("libgcc-s1", architecture, cache)
        folders.append(unwinder)
    authorities, versions["ca-certificates"] = package("ca-certificates", "all", cache)

    files = {path: (text.encode(), 0o644) for path, text in FILES.items()}

    def add(path, source, mode):
        with open(source, "rb") as file:
            files[path] = (file.read(), mode)

    add("usr/bin/tidegate", binary, 0o755)
    # The loader's own name: `ld-linux-x86-64.so.2` is among the libraries that some name.
    loader = os.path.basename(interpreter)
    add(interpreter.lstrip("/"), library(libc, multiarch, loader), 0o755)
    for name in sorted({*libraries, *LOADED_LATER} - {loader}):
        found = [path for folder in folders if (path := library(folder, multiarch, name))]
        if not found:
            sys.exit(f"no package has {name}")
        add(f"lib/{multiarch}/{name}", found[0], 0o755 if name.startswith("libc.") else 0o644)
    certificates = sorted(glob.glob(os.path.join(authorities, "usr/share/ca-certificates/mozilla/*.crt")))
    texts = []
    for path in certificates:
        with open(path, encoding="utf-8") as file:
            texts.append(file.read().strip() + "\n")
    files["etc/ssl/certs/ca-certificates.crt"] = ("".join(texts).encode(), 0o644)
    for name, folder in [("libc6", libc), ("ca-certificates", authorities)]:
        add(f"usr/share/doc/{name}/copyright", os.path.join(folder, f"usr/share/doc/{name}/copyright"), 0o644)
    for name in ("LICENSE-APACHE", "LICENSE-MIT"):
        add(f"usr/share/doc/tidegate/{name}", os.path.join(work, "source", name), 0o644)
    add("usr/share/doc/tidegate/LICENCES-OF-CRATES.txt", os.path.join(work, "licences.txt"), 0o644)
    return files, versions


def entry(path, kind, mode, owner=0):
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.mtime, info.uid, info.gid = kind, mode, EPOCH, owner, owner
    return info


def layer(files):
    """The layer as a tar archive: sorted, parents before what is in them."""
    folders = dict(FOLDERS)
    for path in [*files, *FOLDERS]:
        while path := os.path.dirname(path):
            folders.setdefault(path, (0, 0o755))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted({*files, *folders}):
            if path in folders:
                owner, mode = folders[path]
                tar.addfile(entry(path, tarfile.DIRTYPE, mode, owner))
            else:
                data, mode = files[path]
                info = entry(path, tarfile.REGTYPE, mode)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return archive.getvalue()


def blob_path(described):
    return "blobs/" + described["digest"].replace(":", "/")


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def main():
    work, triple, version, commit, out = sys.argv[1:]
    files, versions = contents(work, triple, os.path.join(work, "image"))
    unpacked = layer(files)
    packed = gzip.compress(unpacked, 9, mtime=0)
    architecture = ARCHITECTURES[triple.split("-")[0]][0]
    created = datetime.datetime.fromtimestamp(EPOCH, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    labels = {
        "org.opencontainers.image.title": "tidegate",
        "org.opencontainers.image.description": "Reverse proxy and load balancer made for WebSocket fleets",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.revision": commit,
        "org.opencontainers.image.created": created,
        "org.opencontainers.image.licenses": "(MIT OR Apache-2.0) AND LGPL-2.1-or-later AND MPL-2.0",
        **{f"org.tidegate.debian.{name}": of for name, of in sorted(versions.items())},
    }
    if homepage := os.environ.get("TIDEGATE_HOMEPAGE"):
        labels["org.opencontainers.image.url"] = homepage
    config = {
        "created": created,
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": f"{USER}:{USER}",
            # Ports below 1024 need a capability: listen on 8443 and publish it as 443.
            "ExposedPorts": {"8443/tcp": {}},
            "Entrypoint": ["/usr/bin/tidegate"],
            "Cmd": ["run", "--config", "/etc/tidegate/config.toml"],
            "WorkingDir": "/",
            # The default; it drains.
            "StopSignal": "SIGTERM",
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(unpacked)]},
        "history": [{"created": created, "created_by": ".ci/release"}],
    }
    blobs = {}

    def blob(kind, data):
        blobs[digest(data)] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(data), "size": len(data)}

    def text(value):
        return json.dumps(value, indent=1, sort_keys=True).encode()

    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", text(config)),
        "layers": [blob("layer.v1.tar+gzip", packed)],
        "annotations": labels,
    }
    # containerd keeps the name as it is here, and Docker looks for the whole one.
    described = {
        **blob("manifest.v1+json", text(manifest)),
        "platform": {"architecture": architecture, "os": "linux"},
        "annotations": {"org.opencontainers.image.ref.name": version, "io.containerd.image.name": f"docker.io/library/tidegate:{version}"},
    }
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [described]}
    # What `docker load` reads before version 25, and where images are not kept by containerd.
    older = [
        {
            "Config": blob_path(manifest["config"]),
            "RepoTags": [f"tidegate:{version}"],
            "Layers": [blob_path(each) for each in manifest["layers"]],
        }
    ]
    layout = {
        "manifest.json": text(older),
        "oci-layout": text({"imageLayoutVersion": "1.0.0"}),
        "index.json": text(index),
        **{f"blobs/sha256/{name.split(':')[1]}": data for name, data in blobs.items()},
    }
    with tarfile.open(out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in ("blobs", "blobs/sha256"):
            tar.addfile(entry(path, tarfile.DIRTYPE, 0o755))
        for path, data in sorted(layout.items()):
            info = entry(path, tarfile.REGTYPE, 0o644)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    print(f"{len(files)} files, {len(packed)} bytes compressed; " + ", ".join(f"{name} {of}" for name, of in sorted(versions.items())))


main()
