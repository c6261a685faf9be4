"""Fills the model: holds the one placement that is open, and opens another when the basis or the groups ask for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.directions.buckets import Bucket, flat_copy, in_order_of_files, make_buckets
from ladle_engine.directions.checkpoint_directions import OFFLOADED, Directions, open_directions
from ladle_engine.directions.formats import ROW_PRECISIONS
from ladle_engine.directions.random_directions import RandomDirections
from ladle_engine.directions.resident_rows import kernels_failure
from ladle_engine.distributed.collectives import Collectives
from ladle_engine.distributed.out_of_memory import RELIEF, fits_everywhere
from ladle_engine.errors import EngineError
from ladle_engine.model.binding import Binding
from ladle_engine.model.groups import Groups, layers_of, whole_model
from ladle_engine.placements.base import (
    BY_CHECKPOINT,
    BY_NODE,
    REPLICATED,
    OpenDirections,
    Placement,
    PlacementInputs,
)
from ladle_engine.placements.exact_weights import ExactWeights
from ladle_engine.placements.memory_plan import MemoryPlan
from ladle_engine.placements.strategies import open_placement
from ladle_engine.progress import ProgressCallback, Warned
from ladle_engine.subspace.first_reading import Copies, FirstRead, FirstReading


@dataclass(kw_only=True)
class ModelWeights:
    """The model's parameters as combinations of the checkpoints' directions, or of random ones."""

    checkpoints: CheckpointSet
    binding: Binding
    plans: Sequence[MemoryPlan]
    """How the directions may be kept, the best first; one that turns out not to fit is dropped."""
    device: torch.device
    collectives: Collectives
    trial: Callable[[], None]
    """One forward and backward pass on this rank alone: runs out of memory where that does not fit."""
    on_event: ProgressCallback
    narrow_output: bool = False
    """Whether the output has numbers of less than 32 bits. The mean of a few of them often lies just between two, and
    would be rounded to one when composed in float32 and to the other when written."""
    first_reading: FirstReading | None = None
    """The job's, until `read_first` has had its way: the directions are filled while the files are read for it."""
    groupings: Sequence[Groups] = ()
    """Those of all methods that will run: buckets fit each, and so do not depend on which one comes first."""
    exact: ExactWeights = field(init=False)
    """Mixtures from the files, for where the directions are coarse."""
    _open: Placement | None = field(default=None, init=False)
    _tried: bool = field(default=False, init=False)
    _told: set[str] = field(default_factory=set, init=False)
    """Precisions whose missing kernels were told of."""
    _key_of: dict[str, object] = field(default_factory=dict, init=False)
    """Parameter -> what it may share a bucket with, in the open placement."""

    def __post_init__(self) -> None:
        self.exact = ExactWeights(self.checkpoints, self.binding)

    def read_first(self, mixes: bool) -> FirstRead:
        """Collective: the job's first reading of all files, which fills the directions where a method mixes them.

        Raises as `FirstReading.conclude`.
        """
        assert self.first_reading is not None, "it is the first thing that a job does with its weights"
        if mixes:
            self.placement(whole_model(self.binding))
        if not self.first_reading.is_read:
            self.first_reading.read_share()
        reading, self.first_reading = self.first_reading, None
        return reading.conclude()

    def placement(self, groups: Groups) -> Placement:
        """Collective. Opened at the first use.

        Buckets are cut by layer and by `groupings`; for a grouping that cuts them they are made again.
        """
        if self._open is None or not self._serves(groups):
            self.close()
            self._open = self._open_what_fits(groups)
        return self._open

    @property
    def plan(self) -> MemoryPlan:
        """How the directions are kept, or will be."""
        return self.plans[0]

    def coarse(self) -> str | None:
        """The precision of the directions, if a mixture composed from them is not the one that will be written."""
        return self.plan.precision if self.narrow_output or self.plan.precision in ROW_PRECISIONS[1:] else None

    @property
    def holds_singles(self) -> bool:
        """Whether the directions give single checkpoints, but for the rounding of float32, faster than the files."""
        return self._open is not None and self.plan.precision == "float32"

    def random_placement(self, groups: Groups, seed: int, count: int) -> Placement:
        """Collective: `count` random directions around what the model now holds. Close it to get the others again."""
        self.close()
        return self._opened(
            groups,
            lambda buckets, rows: RandomDirections(
                [flat_copy(self.binding.parameters, bucket) for bucket in buckets], buckets, rows, seed, count
            ),
            count,
        )

    def close(self) -> None:
        """Frees the directions; what needs them opens them again."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _open_what_fits(self, groups: Groups) -> Placement:
        """Collective: a plan that runs out of memory on any rank is dropped on all.

        Raises `EngineError` (out-of-memory) when the last one does.
        """
        while True:
            opened, fits = fits_everywhere(lambda: self._open_directions(groups), self.collectives)
            if fits and not self._tried:
                _, fits = fits_everywhere(self.trial, self.collectives)
                self._tried = fits
            if fits:
                assert opened is not None, "it failed nowhere"
                self._tell_of_missing_kernels()
                return opened
            if opened is not None:
                opened.close()
            if len(self.plans) == 1:
                raise EngineError(
                    "out-of-memory",
                    f"Directions and a training step must fit into memory, but ran out of it with every precision "
                    f"that was planned. The last was {self.plan.reason}. {RELIEF}",
                )
            ran_out, self.plans = self.plan, self.plans[1:]
            self.on_event(
                Warned(
                    message=f"Directions as {ran_out.precision} ({ran_out.placement}) ran out of memory in a trial "
                    f"step; they are kept as {self.plan.precision} ({self.plan.placement})."
                )
            )

    def _tell_of_missing_kernels(self) -> None:
        """Once for each precision, of rank 0's device."""
        precision = "float32" if self.plan.precision == OFFLOADED else self.plan.precision
        failure = (
            kernels_failure(precision, self.device)
            if precision in ROW_PRECISIONS and precision not in self._told
            else None
        )
        self._told.add(precision)
        if failure is not None:
            self.on_event(
                Warned(
                    message=f"Triton's kernels do not run on {self.device}, so torch's products are used, which are "
                    f"slower: {failure}"
                )
            )

    def _open_directions(self, groups: Groups) -> Placement:
        return self._opened(groups, self._directions, len(self.checkpoints.names))

    def _directions(self, buckets: Sequence[Bucket], rows: slice) -> Directions:
        first = self.first_reading
        fill = None if first is None else partial(first.fill, copies=self._copies())
        return open_directions(self.checkpoints, buckets, self.plan.precision, self.device, rows, fill)

    def _copies(self) -> Copies:
        """The ranks that have the same elements as this one."""
        ranks, placement = self.collectives, self.plan.placement
        if placement == BY_NODE:
            node = ranks.split_by_node()
            return Copies(count=ranks.size // node.size, number=ranks.rank // node.size)
        if placement in (REPLICATED, BY_CHECKPOINT):
            return Copies(count=ranks.size, number=ranks.rank)
        return Copies()

    def _opened(self, groups: Groups, directions: OpenDirections, count: int) -> Placement:
        parameters = self.binding.parameters
        layers = layers_of(parameters)
        self._key_of = {
            name: (layers[name], *(each.of[name] for each in (*self.groupings, groups))) for name in parameters
        }
        inputs = PlacementInputs(
            parameters=parameters,
            buckets=self._buckets(),
            open_directions=directions,
            world=self.collectives,
            count=count,
        )
        return open_placement(self.plan.placement, inputs)

    def _buckets(self) -> tuple[Bucket, ...]:
        buckets = make_buckets(self.binding.parameters, self._key_of.__getitem__)
        with open_checkpoint(self.checkpoints.reference) as reader:
            return in_order_of_files(buckets, reader)

    def _serves(self, groups: Groups) -> bool:
        """Whether every bucket lies in one group; the same answer on every rank."""
        group_of_key: dict[object, int] = {}
        return all(
            group_of_key.setdefault(key, groups.of[name]) == groups.of[name] for name, key in self._key_of.items()
        )
