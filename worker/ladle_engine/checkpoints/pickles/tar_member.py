"""NeMo's `.nemo`: a tar archive with the weights, a file of `torch.save`, in it. They are read where they stand.

Since NeMo 1.7 it is not compressed (`SaveRestoreConnector._make_nemo_file_from_folder`).
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from ladle_engine.checkpoints.other_kinds import BEGINNING, begins_as_tar
from ladle_engine.checkpoints.pickles.torch_archive import InputStream, damage_named
from ladle_engine.checkpoints.pickles.values import Malformed
from ladle_engine.storage.hashed_file import Range
from ladle_engine.storage.input_file import InputFile

WEIGHTS, SHARDED = "model_weights.ckpt", "model_weights"
MAX_MEMBERS = 10_000


def is_tar(file: InputFile) -> bool:
    return begins_as_tar(file.read(0, min(file.size, BEGINNING)))


def weights_in(file: InputFile) -> Range:
    """Where they are; reads the archive's headers. Raises `Malformed`."""
    members = list(_members(file))
    found = [each for each in members if PurePosixPath(each.name).name == WEIGHTS]
    if not found and any(SHARDED in PurePosixPath(each.name).parts for each in members):
        raise Malformed(
            f"must hold its weights as `{WEIGHTS}`, but holds them in parts. Unpack it with `tar xf`, and give the "
            f"folder `{SHARDED}`"
        )
    if len(found) != 1:
        raise Malformed(
            f"must be an archive of NeMo's with one `{WEIGHTS}`, but has {len(found)} of {len(members)} files"
        )
    (member,) = found
    if not member.isreg() or member.issparse() or member.offset_data + member.size > file.size:
        raise Malformed(f"must hold `{WEIGHTS}` as a file in one piece, but does not")
    return member.offset_data, member.offset_data + member.size


def _members(file: InputFile) -> Iterator[tarfile.TarInfo]:
    with damage_named():
        archive = tarfile.TarFile(fileobj=InputStream(file))
        for number, member in enumerate(archive):
            if number == MAX_MEMBERS:
                raise Malformed(f"it has more than {MAX_MEMBERS:,} files")
            yield member
