"""Unpacks packages of a source distribution without building it: `sources.py NAME==VERSION FOLDER PACKAGE ...`."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


def main(release: str, folder: Path, packages: list[str]) -> None:
    with tempfile.TemporaryDirectory() as home:
        download = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:"]
        options = ["--no-build-isolation", "--dest", home]
        subprocess.run([sys.executable, "-m", "pip", *download, *options, release], check=True)
        (archive,) = Path(home).glob("*.tar.gz")
        with tarfile.open(archive) as file:
            file.extractall(home, filter="data")
        (top,) = (each for each in Path(home).iterdir() if each.is_dir())
        for package in packages:
            (top / package).rename(folder / package)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
