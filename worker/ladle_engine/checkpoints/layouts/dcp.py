"""torch.distributed.checkpoint: `.metadata` beside `.distcp` files, or one folder deeper."""

from __future__ import annotations

from collections.abc import Sequence

from ladle_engine.checkpoints.layouts.base import Folder, Found


def look(folder: Folder) -> Sequence[Found] | None:
    if not folder.has(".metadata") and not folder.has("*/.metadata"):
        return None
    return folder.passed_over("in torch.distributed.checkpoint format, which Ladle does not read")
