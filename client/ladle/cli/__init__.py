"""The `ladle` command."""

from __future__ import annotations

from ladle.cli.app import main

__all__ = ["main"]
