"""Adds up memory before the job starts, and picks how the directions are kept and where they lie.

D parameters, K checkpoints, R ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.directions.buckets import BUCKET_ELEMENTS
from ladle_engine.directions.checkpoint_directions import OFFLOADED, STREAMED
from ladle_engine.directions.formats import ROW_PRECISIONS, row_bytes
from ladle_engine.directions.offloaded_rows import OFFLOAD_CHUNK_BYTES
from ladle_engine.distributed.collectives import Collectives, largest_over_ranks, smallest_over_ranks
from ladle_engine.errors import EngineError
from ladle_engine.placements.base import BY_CHECKPOINT, BY_NODE, BY_PARAMETER, PLACEMENTS, REPLICATED, SHARDED_MODEL
from ladle_engine.placements.memory_probe import available_bytes

AUTO = "auto"

PRECISIONS = (*ROW_PRECISIONS, OFFLOADED, STREAMED)

USABLE_SHARE = 0.8
"""Of the memory that is free; the rest is for the data, the allocator and the page cache."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What the job asks for, before it is known what fits."""

    parameters: int
    """D."""
    largest: int
    """Elements of the largest tensor: its gradient stands in memory whole."""
    checkpoints: int
    """K."""
    activations: int
    """Bytes that one batch takes, measured by a trial step; 0 where it could not be tried."""
    has_model: bool
    """Whether the model itself is in memory already, and so is no longer free."""
    weight_vectors: int = 0
    """Vectors of the model's size that a method keeps besides."""
    tensors: int = 0
    """T: how many the parameters are."""


GRAM_MATRICES = 5
"""K x K matrices that each tensor may ask for on the host, in float64: its own, and about four while a basis is made of
groups as small as tensors (the groups' sum, what is decomposed, the vectors found, and the change of basis)."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Where the directions go, and what that takes on each rank, in bytes."""

    placement: str
    precision: str
    parts: Mapping[str, int]
    """`model`, `centre`, `directions`, `gradient`, `activations`, `vectors` of a method's own, and `geometry`: a
    change of basis and, on a CPU, the Gram matrices."""
    available_bytes: int
    reason: str

    @property
    def needed_bytes(self) -> int:
        return sum(self.parts.values())

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "needed_bytes": self.needed_bytes}


def demand_of(checkpoints: CheckpointSet, activations: int, has_model: bool, weight_vectors: int = 0) -> Demand:
    sizes = [info.numel for name in checkpoints.averaged if (info := checkpoints.tensors[name]).is_floating]
    return Demand(
        parameters=sum(sizes),
        largest=max(sizes, default=0),
        checkpoints=len(checkpoints.checkpoints),
        activations=activations,
        has_model=has_model,
        weight_vectors=weight_vectors,
        tensors=len(sizes),
    )


def plans(
    demand: Demand,
    device: torch.device,
    collectives: Collectives,
    placement: str = AUTO,
    precision: str = AUTO,
    sharded: bool | None = None,
) -> list[MemoryPlan]:
    """Collective: what fits, the best first. What is not `auto` is taken as it is.

    `sharded` says how the model was built, once it was: then it can no longer be cut, or made whole.

    float32 comes first, on one rank each and then cut over the ranks, then bfloat16 and int8; int4 costs the search
    some accuracy, offload and streamed cost time. The result is always recomputed from the original files.

    Raises `EngineError`: `invalid-placement` for one that cannot work, `out-of-memory` with the numbers when none fits.
    """
    _refuse_impossible(demand, device, collectives, placement, precision)
    available = smallest_over_ranks(available_bytes(device), collectives)
    tried = [
        _plan(demand, device, collectives, each_placement, each_precision, available)
        for each_precision, each_placement in _choices(device, collectives, placement, precision)
        if sharded is None or sharded == (each_placement == SHARDED_MODEL)
    ]
    in_host = smallest_over_ranks(available_bytes(torch.device("cpu")), collectives)
    if any(plan.placement == BY_NODE for plan in tried):
        # Here, where all ranks are, and before any work: it refuses nodes that differ.
        collectives.split_by_node()
    fitting = [
        plan
        for plan in tried
        if plan.needed_bytes <= USABLE_SHARE * available
        and host_bytes(plan, demand, device, collectives) <= USABLE_SHARE * in_host
    ]
    if not fitting:
        least = min(tried, key=lambda plan: plan.needed_bytes)
        on_host = host_bytes(least, demand, device, collectives)
        raise EngineError(
            "out-of-memory",
            f"Training coefficients of {demand.checkpoints} checkpoints with {demand.parameters:,} parameters must "
            f"have {_table(least.parts)} on each rank ({least.placement}, {least.precision}), but {available:,} bytes "
            f"are free on {device}, of which {USABLE_SHARE:.0%} may be used."
            + (
                f" The host's memory must hold {on_host:,} bytes besides, and has {in_host:,} free."
                if on_host > USABLE_SHARE * in_host
                else ""
            )
            + (f" Try `placement: {SHARDED_MODEL}`." if sharded is False and collectives.size > 1 else ""),
        )
    return fitting


def _choices(
    device: torch.device, collectives: Collectives, placement: str, precision: str
) -> Iterator[tuple[str, str]]:
    own = int(os.environ.get("LOCAL_WORLD_SIZE", str(collectives.size)))
    alike = smallest_over_ranks(own, collectives) == largest_over_ranks(own, collectives)
    cut = BY_NODE if alike and 1 < own < collectives.size else BY_PARAMETER
    placements = [placement]
    if placement == AUTO:
        placements = [REPLICATED, cut, SHARDED_MODEL] if collectives.size > 1 else [REPLICATED]
    precisions = [precision]
    if precision == AUTO:
        offload = (OFFLOADED,) if device.type == "cuda" else ()
        precisions = ["float32", "bfloat16", "int8", *offload, "int4", STREAMED]
    # A model that fits is never sharded: FSDP2 sends all of it at each step.
    for sharded in (False, True):
        for each_precision in precisions:
            for each_placement in placements:
                if (each_placement == SHARDED_MODEL) == sharded:
                    yield each_precision, each_placement


def _plan(
    demand: Demand,
    device: torch.device,
    collectives: Collectives,
    placement: str,
    precision: str,
    available: int,
) -> MemoryPlan:
    D, R = demand.parameters, collectives.size
    rows, own = _cut(placement, demand, collectives)
    model = own if placement == SHARDED_MODEL else D
    parts = {
        "model": 0 if demand.has_model else 4 * model,
        "centre": 0 if precision == STREAMED else 4 * own,
        "directions": _directions_bytes(precision, rows, own),
        # One as it came and one in its bucket; ranks that meet over it need room for what they receive, and FSDP2 for
        # the weights of the block that it gathers.
        "gradient": 4 * max(demand.largest, min(BUCKET_ELEMENTS, D)) * (2 if placement == REPLICATED else 3),
        "activations": demand.activations,
        "vectors": 4 * model * demand.weight_vectors,
        # A basis lies where the model is; the Gram matrices, which it is made from, on the host.
        "geometry": (GRAM_MATRICES if device.type == "cpu" else 1) * _matrices_bytes(demand),
    }
    plan = MemoryPlan(placement=placement, precision=precision, parts=parts, available_bytes=available, reason="")
    cut_over = -(-D // own) if rows == demand.checkpoints else R
    lies = "in all" if R == 1 else "on each rank" if cut_over == 1 else f"cut over {cut_over} ranks"
    kept = f"{demand.checkpoints} directions of {D:,} numbers as {precision}, {lies}"
    reason = f"{kept}: {_table(parts)} of {available:,} bytes that are free on {device}"
    return MemoryPlan(**{**asdict(plan), "reason": reason})


def host_bytes(plan: MemoryPlan, demand: Demand, device: torch.device, collectives: Collectives) -> int:
    """What the plan takes of the host's memory, on each rank, beside a GPU's."""
    if device.type == "cpu":
        return 0
    kept = GRAM_MATRICES * _matrices_bytes(demand)
    if plan.precision == OFFLOADED:
        rows, own = _cut(plan.placement, demand, collectives)
        offloaded = rows * row_bytes("float32", own)
        # torch rounds pinned allocations up to a power of two: each bucket's last chunk, and a bucket has a tensor.
        kept += offloaded + min(offloaded, demand.tensors * OFFLOAD_CHUNK_BYTES // 2)
    return kept


def spare_host_bytes(plan: MemoryPlan, demand: Demand, device: torch.device, collectives: Collectives) -> int:
    """How much of the host's usable memory the plan leaves, on this rank."""
    if device.type == "cpu":
        spare = USABLE_SHARE * plan.available_bytes - plan.needed_bytes
    else:
        spare = USABLE_SHARE * available_bytes(torch.device("cpu")) - host_bytes(plan, demand, device, collectives)
    return max(int(spare), 0)


def _matrices_bytes(demand: Demand) -> int:
    """One K x K matrix of float64 per tensor."""
    return 8 * demand.tensors * demand.checkpoints**2


def _directions_bytes(precision: str, rows: int, own: int) -> int:
    """On the device."""
    if precision == STREAMED:
        return 0
    if precision == OFFLOADED:
        return 2 * OFFLOAD_CHUNK_BYTES
    return rows * row_bytes(precision, own)


def _cut(placement: str, demand: Demand, collectives: Collectives) -> tuple[int, int]:
    """How many rows a rank has, and how many elements of each."""
    D, K, R = demand.parameters, demand.checkpoints, collectives.size
    if placement == BY_CHECKPOINT:
        return -(-K // R), D
    if placement == BY_NODE:
        return K, -(-D // int(os.environ.get("LOCAL_WORLD_SIZE", str(R))))
    return K, -(-D // R) if placement in (BY_PARAMETER, SHARDED_MODEL) else D


def _table(parts: Mapping[str, int]) -> str:
    """`1,200 bytes (400 model, 800 directions)`"""
    return f"{sum(parts.values()):,} bytes ({', '.join(f'{size:,} {name}' for name, size in parts.items() if size)})"


def _refuse_impossible(
    demand: Demand, device: torch.device, collectives: Collectives, placement: str, precision: str
) -> None:
    def refuse(field: str, rule: str, value: str) -> EngineError:
        return EngineError("invalid-placement", f"`{field}=` must {rule}, but is {value}.")

    if placement not in (AUTO, *PLACEMENTS):
        raise refuse("placement", f"be one of {', '.join((AUTO, *PLACEMENTS))}", f"`{placement}`")
    if precision not in (AUTO, *PRECISIONS):
        raise refuse("precision", f"be one of {', '.join((AUTO, *PRECISIONS))}", f"`{precision}`")
    if placement == SHARDED_MODEL and collectives.size == 1:
        raise refuse(
            "placement", "be another one with a single rank", f"`{placement}`, which cuts the model over several"
        )
    if placement in (BY_PARAMETER, BY_NODE, SHARDED_MODEL) and collectives.size > demand.parameters:
        raise refuse(
            "placement",
            f"be `{REPLICATED}` with more ranks ({collectives.size}) than parameters ({demand.parameters})",
            f"`{placement}`",
        )
    if precision == OFFLOADED and device.type != "cuda":
        raise refuse("precision", f"be another one on {device}", f"`{OFFLOADED}`, which needs a GPU")
    if placement == BY_CHECKPOINT and precision == STREAMED:
        raise refuse("precision", f"be another one with `{BY_CHECKPOINT}`", f"`{STREAMED}`, which keeps no directions")
