#!/usr/bin/env python3
"""Makes pure-Python wheels of Debian's packages of Flask and what it needs, for a package index that is a folder.

usage: wheels.py FOLDER_OF_DEBS OUT_FOLDER

The same packages give the same bytes. Modules in C are left out: all of these work without.
"""

import base64
import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile

# Distribution, its Debian package, its module, what it requires.
DISTRIBUTIONS = (
    ("Flask", "python3-flask", "flask", ("Werkzeug", "Jinja2", "itsdangerous", "click")),
    ("Werkzeug", "python3-werkzeug", "werkzeug", ("MarkupSafe",)),
    ("Jinja2", "python3-jinja2", "jinja2", ("MarkupSafe",)),
    ("MarkupSafe", "python3-markupsafe", "markupsafe", ()),
    ("itsdangerous", "python3-itsdangerous", "itsdangerous", ()),
    ("click", "python3-click", "click", ()),
)
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can say


def upstream_version(deb: pathlib.Path) -> str:
    """2.2.2 of python3-flask_2.2.2-3_all.deb"""
    return deb.name.split("_")[1].split("%3a")[-1].rsplit("-", 1)[0].split("+")[0]


def content(module: pathlib.Path) -> list[tuple[str, bytes]]:
    """The files of a module, sorted, by their paths in a wheel."""
    files = (f for f in module.rglob("*") if f.is_file() and f.suffix not in (".so", ".pyc"))
    return sorted((f.relative_to(module.parent).as_posix(), f.read_bytes()) for f in files)


def write(out: pathlib.Path, name: str, version: str, files: list[tuple[str, bytes]], requires: tuple[str, ...]) -> None:
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {r}\n" for r in requires)
    files = files + [
        (f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}".encode()),
        (f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: wheels.py\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
    ]
    record = ""
    for path, data in files:
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        record += f"{path},sha256={digest},{len(data)}\n"
    files.append((f"{info}/RECORD", f"{record}{info}/RECORD,,\n".encode()))
    with zipfile.ZipFile(out / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, data in files:
            entry = zipfile.ZipInfo(path, EPOCH)
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, data)  # stored: what a compressor writes depends on its version


def main(debs: str, out: str) -> None:
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    for name, package, module, requires in DISTRIBUTIONS:
        (deb,) = pathlib.Path(debs).glob(f"{package}_*.deb")
        with tempfile.TemporaryDirectory() as root:
            subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
            files = content(pathlib.Path(root, "usr/lib/python3/dist-packages", module))
        write(pathlib.Path(out), name, upstream_version(deb), files, requires)


if __name__ == "__main__":
    main(*sys.argv[1:])
