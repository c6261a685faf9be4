"""DeepSpeed: states of the model and of the optimiser, in a folder of their own or in `global_stepN/`.

Without ZeRO, and with its stages 1 and 2, one file has the whole model in the type that it was trained in, under
`module`. Stage 3 shares the weights over ranks, in an order that only DeepSpeed's own script knows.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from ladle_engine.checkpoints.files import PassedOver
from ladle_engine.checkpoints.layouts.base import Folder, Found

MODEL_STATES = "*_model_states.pt"
OPTIMISER_STATES = "*_optim_states.pt"
WHOLE = "mp_rank_00_model_states.pt"
MODEL_PARALLEL = re.compile(r"mp_rank_([0-9]+)")


def look(folder: Folder) -> Sequence[Found] | None:
    places = {"": folder.names} | {child: folder.inner(child) for child in folder.children}
    held = {child: states for child, names in places.items() if (states := fnmatch.filter(names, MODEL_STATES))}
    if len(held) != 1:
        # Several are a run, with a `global_stepN/` for each checkpoint.
        return None
    child, states = next(iter(held.items()))
    if states != [WHOLE]:
        return folder.passed_over(f"in DeepSpeed format: {_what_to_do(folder, child, states)}")
    at = folder.child(child) if child else folder
    if at.leads_out(WHOLE):
        return folder.passed_over(f"its `{WHOLE}` is a link that leads out")
    found: list[Found] = [folder.checkpoint([at.path / WHOLE], "pickle")]
    if others := sorted(fnmatch.filter(places[child], OPTIMISER_STATES)):
        reason = "has the weights in float32, and those in the type of training are used: to have the others, "
        found.append(PassedOver(name=f"{at.name}/{others[0]}", reason=reason + _what_to_do(folder, child, states)))
    return found


def _what_to_do(folder: Folder, child: str, states: Sequence[str]) -> str:
    """DeepSpeed leaves its script beside the folders of states. It reads the one that `latest` names, or `--tag`."""
    if len({rank[1] for state in states if (rank := MODEL_PARALLEL.search(state))}) > 1:
        return "it is shared over model-parallel ranks. Gather the weights with the tool that trained it"
    tag, where = ("", "in this folder") if child else (f" --tag {folder.path.name}", "in the folder above")
    return f"convert it with its zero_to_fp32.py (`python zero_to_fp32.py . whole{tag}`, {where})"
