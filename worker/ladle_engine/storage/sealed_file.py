"""Small files that say whether they are whole, and what: each begins with the SHA-256 of its kind and of the rest."""

from __future__ import annotations

import hashlib
import shutil
import stat
from pathlib import Path

from ladle_engine.storage.atomic_folder import replace_file
from ladle_engine.storage.input_file import COUNTS

DIGEST_BYTES = hashlib.sha256().digest_size


def write_sealed(path: Path, content: bytes, kind: str) -> None:
    """The file has all of its content, or what it had before. `kind` names what it is, for whoever reads it."""
    replace_file(path, _seal(content, kind) + content)
    COUNTS.wrote(DIGEST_BYTES + len(content))


def read_sealed(path: Path, kind: str) -> bytes | None:
    """None for what is cut or damaged, of another kind, or no file. Raises OSError where it cannot be opened."""
    if not stat.S_ISREG(path.stat().st_mode):
        return None
    sealed = path.read_bytes()
    digest, content = sealed[:DIGEST_BYTES], sealed[DIGEST_BYTES:]
    return content if _seal(content, kind) == digest else None


def remove_whatever(path: Path) -> None:
    """What stands in the place of such a file, a folder too. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _seal(content: bytes, kind: str) -> bytes:
    # Null bytes end the kind, which has none: no two pairs make the same text.
    return hashlib.sha256(kind.encode() + b"\0" + content).digest()
