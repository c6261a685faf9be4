"""The door to the merge curve: how good the best average is at each checkpoint of a run, beside the checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ladle_engine.average import Outcome, average
from ladle_engine.checkpoints.sources import CkptDir
from ladle_engine.paths import PathLike
from ladle_engine.pipeline.request import CURVE


def curve(
    ckpt_dir: CkptDir,
    val_set: PathLike | Mapping[str, PathLike] | None = None,
    *,
    output: PathLike,
    every: int | None = None,
    shapes: Sequence[str] = (),
    windows: int = 1,
    earlier: PathLike | None = None,
    **arguments: Any,
) -> Outcome:
    """Writes the merge curve of a run into the new folder `output`: `curve.json`, and a report that draws it.

    At each point it has the checkpoint itself and the best average that ends there. The fit split chooses the average,
    the select split says how good both are. Nothing is trained and no model is written: `rebuild` makes the best one.

    Every checkpoint is read twice: to be checked, and to move the averages. Where BatchNorm's statistics may be
    averaged or recomputed, a third time, for the mean that this is tried on. Ranks share the reading and the averages.

    Args:
        every: the curve has a point at every n-th checkpoint, and at the last; when absent there are about 32 at most,
            and a run that grows keeps those that remain.
        shapes: of the profiles that are tried, some of `linear`, `one-minus-sqrt` and `power`; all when empty.
        windows: how many lengths of windows are tried between a length and its double: 1, 2 or 4.
        earlier: the result folder of an earlier curve of this run. What it knows of checkpoints and averages that are
            still the same is not evaluated again; the new curve has the same bits as without it.
        arguments: those of `average`, but for `method`, `method_options`, `diagnose` and `no_set_worse`.

    Raises:
        EngineError: with a stable `code`; see `ladle_engine.errors`. Nothing is left behind.
        ValueError: an argument breaks its own rule.
    """
    return average(
        ckpt_dir,
        val_set,
        output=output,
        kind=CURVE,
        curve_every=every,
        curve_shapes=shapes,
        curve_windows=windows,
        curve_earlier=earlier,
        **arguments,
    )
