"""One training's averages: the curve while it goes on, and the result at its end. Shared by both callbacks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ladle import curve
from ladle._address import find_address
from ladle._client import Client
from ladle._spec import ValSet, build_spec
from ladle.callbacks._averager import Averager, Outcome
from ladle.callbacks._averaging import is_service_known, with_steps
from ladle.callbacks._failures import describe
from ladle.callbacks._results import place, summary, tracked, tracked_point
from ladle.callbacks._snapshots import is_main_rank

logger = logging.getLogger("ladle.callbacks")
PAUSE_S = 5.0
"""How often ranks tell each other that rank 0 still waits: a collective must not last for minutes."""
AVERAGED = "averaged"
OWN_FOLDER = "ladle"
"""Beside the training's own files."""


class AveragedRun:
    """On the main rank of a training whose files are in `home`. No method but `begin` raises an error.

    Args:
        home: gets `averaged/`, the model; and `ladle/`, with `curve.jsonl` and the results of a stack of our own.
        folder: holds the checkpoints.
        average_every: after each so many checkpoints a job is asked for. None: only at the end.
        wait: whether the end waits for the result.
        log: gives numbers to the training's tracker.
    """

    def __init__(
        self,
        home: Path,
        folder: Path,
        val_set: ValSet,
        options: Mapping[str, Any],
        *,
        average_every: int | None,
        wait: bool,
        log: Callable[[dict[str, float]], None],
    ) -> None:
        self.home, self.folder, self.val_set, self.options = home, folder, val_set, options
        self.average_every, self.wait = average_every, wait
        self._log = log
        self._new()

    def _new(self) -> None:
        self._kept, self._is_ending = 0, False
        self.averager = Averager(self.folder, self.val_set, self.options, self.home / OWN_FOLDER / "results")

    def begin(self) -> None:
        """Raises `InvalidSpec` or TypeError for options that no job takes, and ValueError for paths that are not there.

        Before the training, because a mistake that shows only at its end costs the most.
        """
        self._new()
        self.folder.mkdir(parents=True, exist_ok=True)
        spec = build_spec(self.folder, self.val_set, self.options)
        if not is_service_known() or find_address().is_own_stack:
            missing = [path for path in spec.val_sets.values() if "://" not in path and not Path(path).exists()]
            if missing:
                raise ValueError(f"`val_set` must exist, but `{missing[0]}` does not.")

    def in_use(self) -> set[int]:
        """The steps of checkpoints that a job reads, or soon will."""
        return self.averager.in_use()

    def kept(self, steps: Sequence[int]) -> None:
        """After each checkpoint, with the steps of all that are there."""
        self._kept += 1
        if self.average_every is not None and self._kept % self.average_every == 0 and len(steps) > 1:
            self.averager.ask(steps)

    def poll(self) -> None:
        """Logs what has ended. It takes no time."""
        for outcome in self.averager.finished():
            self._tell(outcome)

    def finish(self, steps: Sequence[int], missing: Mapping[int, Exception]) -> None:
        """Averages what was kept, and says what could not be. Collective: rank 0 has the steps, and all wait for it."""
        if not is_main_rank():
            _wait_together(lambda: True)
            return
        if missing:
            logger.warning("%s", describe(self.folder, missing))
        try:
            begun = self._begin_last(steps)
        except Exception as error:
            self._give_up(error)
            begun = False
        _wait_together(lambda: not begun or self._has_ended())
        self.averager.close()

    def close(self) -> None:
        """The training ends early."""
        self.poll()
        self.averager.close()

    def _begin_last(self, steps: Sequence[int]) -> bool:
        self._is_ending = True
        if len(steps) < 2:
            logger.warning(
                "Ladle averages at least 2 checkpoints, but only %d was kept in %s.", len(steps), self.folder
            )
            return False
        if self.wait or not is_service_known():
            self.averager.ask(steps)
            return True
        self.poll()
        with Client() as client:
            job = client.submit(self.folder, self.val_set, **with_steps(self.options, steps))
        print(f"Ladle: job {job.id} averages {len(steps)} checkpoints. `ladle watch {job.id}` shows it.")
        return False

    def _has_ended(self) -> bool:
        """Waits a little for the last job, and puts its model in place."""
        if not self.averager.wait(PAUSE_S):
            return False
        try:
            self._take_last()
        except Exception as error:
            logger.warning("The averaged model could not be put into %s: %s", self.home / AVERAGED, error)
        return True

    def _take_last(self) -> None:
        self.poll()
        last = self.averager.last
        if last is None or last.result is None:
            self._give_up(last.error if last is not None and last.error is not None else RuntimeError("no result"))
            return
        print(f"{summary(last.result)} It is in {last.result.folder}")
        place(Path(last.result.folder), self.home / AVERAGED)
        print(f"Ladle: the model is in {self.home / AVERAGED}")

    def _tell(self, outcome: Outcome) -> None:
        if outcome.result is None:
            if not self._is_ending:
                logger.warning("An average could not be made, and the training goes on: %s", outcome.error)
            return
        try:
            point = curve.point_of(outcome.result, outcome.job_id, step=outcome.steps[-1])
            curve.append(self.home / OWN_FOLDER / curve.CURVE_FILE, point)
            self._log(_numbers({**tracked(outcome.result), **tracked_point(point)}))
        except Exception as error:  # of a tracker, or a full disk
            logger.warning("The numbers of an average could not be logged: %s", error)

    def _give_up(self, error: Exception) -> None:
        from ladle.callbacks._command import command_of

        try:
            command = command_of(build_spec(self.folder, self.val_set, self.options))
        except Exception:  # what is wrong with the options is in `error` already
            command = f"ladle run {self.folder} VAL_SET"
        logger.warning(
            "The checkpoints in %s could not be averaged: %s\nThey stay there. This command does it:\n  %s",
            *(self.folder, error, command),
        )


def _wait_together(is_done: Callable[[], bool]) -> None:
    """Until `is_done` on rank 0. The other ranks wait with it, so that their next collective does not time out."""
    together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    while True:
        done = [is_done()]
        if together:
            dist.broadcast_object_list(done)
        if done[0]:
            return


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    """Trackers take finite numbers."""
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
