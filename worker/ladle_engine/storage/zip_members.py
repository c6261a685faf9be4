"""Members of zip archives of strangers, read within what they claim: `ZipFile.read` unpacks up to 2 GiB at once."""

from __future__ import annotations

import zipfile

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Python unpacks the others without any bound, and neither numpy nor torch writes them."""


def refuse_unusual(info: zipfile.ZipInfo) -> None:
    """Raises `ValueError` for a member that is encrypted, or packed in an unusual way."""
    if info.flag_bits & 1:
        raise ValueError(f"its record `{info.filename}` is encrypted")
    if info.compress_type not in METHODS:
        raise ValueError(f"its record `{info.filename}` is packed by method {info.compress_type}, and not deflated")


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """All of a member, which must have the size that it claims. Raises as `refuse_unusual` and as `zipfile`."""
    refuse_unusual(info)
    with archive.open(info) as member:
        # A size is a bound here, and none is none.
        content = member.read(info.file_size) if info.file_size else b""
    if len(content) != info.file_size:
        raise ValueError(f"its record `{info.filename}` has {len(content):,} bytes, of {info.file_size:,}")
    return content
