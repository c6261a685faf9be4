"""All layouts of a folder that is one checkpoint, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Sequence

from ladle_engine.checkpoints.layouts import (
    adapters,
    components,
    dcp,
    deepspeed,
    ladle_result,
    llama,
    one_file,
    other_formats,
    usual_names,
)
from ladle_engine.checkpoints.layouts.base import Folder, Found, Layout

LAYOUTS: dict[str, Layout] = {
    "a result of Ladle": ladle_result.look,
    "PEFT adapter": adapters.look,
    "usual names": usual_names.look,
    "torch.distributed.checkpoint": dcp.look,
    "DeepSpeed": deepspeed.look,
    "other formats": other_formats.look,
    "Llama": llama.look,
    "several models": components.look,
    "one file": one_file.look,
}
"""Name for people -> layout. The first one that knows a folder decides."""


def as_one_checkpoint(folder: Folder) -> Sequence[Found] | None:
    """What a folder is as one checkpoint; None where no layout knows it. Raises `OSError`."""
    return next((found for look in LAYOUTS.values() if (found := look(folder)) is not None), None)
