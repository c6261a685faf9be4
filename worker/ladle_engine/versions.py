"""Versions of what is installed."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

NOT_INSTALLED = "not installed"


def installed_version(package: str) -> str:
    """`not installed` for what is absent; also for Ladle itself where it runs from its sources."""
    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED


def versions() -> dict[str, str]:
    """What decides the numbers of a run, by name."""
    packages = ("ladle", "safetensors", "numpy", "transformers")
    return {"python": platform.python_version(), "torch": torch.__version__} | {
        package: installed_version(package) for package in packages
    }
