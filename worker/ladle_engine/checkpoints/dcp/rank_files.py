"""`torch.save(model.state_dict())` of each rank of FSDP2: every file has one rank's part of each DTensor.

A DTensor's own record says how it is shared and where its rank is in the mesh: `torch/distributed/tensor/_api.py` and
`_dtensor_spec.py` of torch 2.13. What is no DTensor is the same on all ranks, and is the first one's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ladle_engine.checkpoints.boxes import Box, box_of, fault_of_cut
from ladle_engine.checkpoints.in_file import InFile
from ladle_engine.checkpoints.pickles.opcodes import follow
from ladle_engine.checkpoints.pickles.state_dicts import find_state_dict
from ladle_engine.checkpoints.pickles.torch_archive import RecordsInFile, is_zip, open_archive
from ladle_engine.checkpoints.pickles.unwanted import Unwanted, refusal, wanted
from ladle_engine.checkpoints.pickles.values import Inert, Malformed, Special, StoredTensor
from ladle_engine.checkpoints.pieces import PieceInFile, Pieces, pieces_in_order
from ladle_engine.checkpoints.safetensors_file import corrupt
from ladle_engine.checkpoints.stored import Place, StoredFile
from ladle_engine.checkpoints.types import TensorInfo
from ladle_engine.errors import CheckpointError
from ladle_engine.storage.input_file import InputFile

DTENSOR = "torch.distributed.tensor.DTensor"
MOST_DICTS = 100_000
"""That are looked through for DTensors."""
CONVERT = (
    "Save the whole weights, with `get_model_state_dict` and `StateDictOptions(full_state_dict=True)`, or with "
    "`torch.distributed.checkpoint.save`"
)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one rank has of a DTensor."""

    shape: tuple[int, ...]
    placements: tuple[int | None, ...]
    """For each dimension of the mesh, which one of the tensor is shared over it; None for copies."""
    coordinate: tuple[int, ...]
    """Of the rank, in the mesh."""


@dataclass(frozen=True, slots=True)
class _Piece:
    part: _Part
    file: int
    place: InFile


@dataclass(frozen=True, slots=True)
class _Rank:
    """What one file holds."""

    tensors: Mapping[str, StoredTensor]
    parts: Mapping[int, _Part]
    """By the identity of the tensor."""
    records: RecordsInFile
    notes: tuple[str, ...]


def stored_tensors(files: Sequence[InputFile], *, use_ema: bool = False) -> list[StoredFile]:
    """Raises `CheckpointError`: corrupt for files that do not fit together, or do not say how they do."""
    pieces: dict[str, list[_Piece]] = defaultdict(list)
    tensors: dict[str, Place] = {}
    notes: tuple[str, ...] = ()
    for number, file in enumerate(files):
        rank = _read(file, use_ema)
        notes = notes or rank.notes
        for name, tensor in rank.tensors.items():
            part, place = rank.parts.get(id(tensor)), rank.records.place(name, tensor)
            if part is not None:
                pieces[name].append(_Piece(part, number, place))
            elif number == 0:
                tensors[name] = place
    tensors |= {name: _put_together(files, name, found) for name, found in pieces.items()}
    first, *others = files
    return [
        StoredFile(file=first, tensors=tensors, notes=notes),
        *(StoredFile(file=file, tensors={}) for file in others),
    ]


def holds_parts(file: InputFile) -> bool:
    """Whether a file of `torch.save` has DTensors. Not for one that cannot be followed: whoever reads it says why."""
    try:
        return is_zip(file) and bool(_replaced(wanted(follow(open_archive(file).pickle())).value)[1])
    except (Unwanted, Malformed, CheckpointError):
        return False


def _read(file: InputFile, use_ema: bool) -> _Rank:
    try:
        if not is_zip(file):
            raise Malformed("must be written by `torch.save` of torch 1.6 or later, as those of the other ranks are")
        archive = open_archive(file)
        value, parts = _replaced(wanted(follow(archive.pickle())).value)
        if not archive.tells_places:
            raise Malformed("it is compressed, or of another byte order")
        found = find_state_dict(file.path, value, use_ema=use_ema)
        return _Rank(found.tensors, parts, RecordsInFile(archive=archive), found.notes)
    except Unwanted as error:
        raise refusal(file.path, error) from error
    except Malformed as error:
        clause = str(error)
        clause = clause if clause.startswith("must ") else f"must be a PyTorch file, but {clause}"
        raise corrupt(file.path, clause) from error


def _replaced(value: Any) -> tuple[Any, dict[int, _Part]]:
    """The same with the rank's own numbers in place of each DTensor, and what these are part of."""
    parts: dict[int, _Part] = {}
    seen: dict[int, dict[Any, Any]] = {}

    def replaced(each: Any) -> Any:
        if isinstance(each, Special) and each.name == DTENSOR:
            local, part = _part_of(each)
            parts[id(local)] = part
            return local
        if not isinstance(each, dict) or len(seen) >= MOST_DICTS:
            return each
        if id(each) not in seen:
            copy: dict[Any, Any] = {}
            seen[id(each)] = copy
            copy |= {key: replaced(inner) for key, inner in each.items()}
        return seen[id(each)]

    try:
        return replaced(value), parts
    except RecursionError as error:
        raise Malformed("its dicts are nested too deeply") from error


def _part_of(tensor: Special) -> tuple[StoredTensor, _Part]:
    """Raises `Malformed` where the file does not tell."""
    try:
        attributes = tensor.attributes
        spec = attributes["_spec"].attributes
        mesh = spec["mesh"].attributes
        shape, placements = spec["tensor_meta"].arguments[0], tuple(map(_shared_dimension, spec["placements"]))
        part = _Part(tuple(shape), placements, tuple(mesh["_coordinate_on_dim"]))
        local: StoredTensor = attributes["_local_tensor"]
        numbers = (*part.shape, *part.coordinate, *(each for each in placements if each is not None))
        if not isinstance(local, StoredTensor) or not all(type(each) is int and each >= 0 for each in numbers):
            raise TypeError("something else in their place")
    except (KeyError, AttributeError, TypeError, IndexError) as error:
        raise Malformed(f"must say how its DTensors are shared over ranks, but does not. {CONVERT}") from error
    shared = [each for each in placements if each is not None]
    if len(set(shared)) < len(shared):
        # FSDP and tensor parallelism in the same dimension: pieces of pieces, in an order of their own.
        raise Malformed(f"must share a dimension over one dimension of the mesh only, but does over several. {CONVERT}")
    return local, part


def _shared_dimension(placement: Inert) -> int | None:
    kind = placement.name.rpartition(".")[2]
    if kind == "Replicate":
        return None
    if kind != "Shard":
        raise TypeError(kind)
    dimension: int = placement.attributes["dim"]
    return dimension


def _put_together(files: Sequence[InputFile], name: str, pieces: Sequence[_Piece]) -> Pieces:
    path, first = files[0].path, pieces[0]
    alike = {
        (each.part.shape, each.part.placements, len(each.part.coordinate), each.place.info.dtype) for each in pieces
    }
    if len(alike) > 1 or len(first.part.coordinate) != len(first.part.placements):
        raise corrupt(path, f"must hold its part of `{name}` as the files of the other ranks do, but does not")
    mesh = [max(each.part.coordinate[axis] for each in pieces) + 1 for axis in range(len(first.part.placements))]
    boxes = {_box(each.part, mesh): each for each in reversed(pieces)}
    kept = {box: each for box, each in boxes.items() if all(start < stop for start, stop in box)}
    for box, each in kept.items():
        if tuple(stop - start for start, stop in box) != each.place.info.shape:
            raise corrupt(files[each.file].path, f"has a part of `{name}` of another shape than its place in the mesh")
    info = TensorInfo(shape=first.part.shape, dtype=first.place.info.dtype)
    if info.numel and (fault := fault_of_cut(info.shape, list(kept))) is not None:
        raise corrupt(
            path, f"must make up `{name}` with the files of the other ranks, but their parts {fault}. Is one missing?"
        )
    return pieces_in_order(
        info, [PieceInFile(box, each.file, each.place.offset, each.place) for box, each in kept.items()]
    )


def _box(part: _Part, mesh: Sequence[int]) -> Box:
    """As `torch.chunk` cuts: each as long as the first, the last ones shorter or empty."""
    offsets, sizes = [0] * len(part.shape), list(part.shape)
    for dimension, index, count in zip(part.placements, part.coordinate, mesh, strict=True):
        if dimension is not None:
            size = part.shape[dimension]
            step = -(-size // count)
            offsets[dimension] = min(index * step, size)
            sizes[dimension] = min(step, size - offsets[dimension])
    return box_of(offsets, sizes)
