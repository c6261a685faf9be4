"""A DCP checkpoint's tensors, put together from its chunks, each of them a small archive of `torch.save`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

from ladle_engine.checkpoints.boxes import sides
from ladle_engine.checkpoints.dcp.metadata import ChunkedTensor, read_metadata
from ladle_engine.checkpoints.dcp.weights import weights_of
from ladle_engine.checkpoints.in_file import InFile
from ladle_engine.checkpoints.pickles.opcodes import follow
from ladle_engine.checkpoints.pickles.torch_archive import RecordsInFile, is_zip, open_archive
from ladle_engine.checkpoints.pickles.unwanted import Unwanted, refusal, wanted
from ladle_engine.checkpoints.pickles.values import Malformed, StoredTensor
from ladle_engine.checkpoints.pieces import PieceInFile, Pieces, pieces_in_order
from ladle_engine.checkpoints.safetensors_file import corrupt
from ladle_engine.checkpoints.stored import StoredFile
from ladle_engine.checkpoints.types import TensorInfo
from ladle_engine.errors import CheckpointError
from ladle_engine.storage.file_parts import FileParts
from ladle_engine.storage.hashed_file import Range, load_whole
from ladle_engine.storage.input_file import InputFile

METADATA_SUFFIX = ".metadata"


def stored_tensors(files: Sequence[InputFile], *, use_ema: bool = False) -> list[StoredFile]:
    """Of the `.metadata` files, and then of the others. Chunks are looked at when they are read.

    Raises `CheckpointError`: corrupt, unsafe, or unsupported for chunks that were transformed.
    """
    described = [file for file in files if file.path.name.endswith(METADATA_SUFFIX)]
    metadata = read_metadata(described)
    weights = weights_of(described[0].path, metadata, use_ema=use_ema)
    chosen = {name: metadata.tensors[record.storage.key] for name, record in weights.tensors.items()}
    data = {file.path.name: file for file in files if file not in described}
    ranges = _needed(described[0], chosen, data)
    numbers = {name: number for number, name in enumerate(data, start=len(described))}
    parts = {name: FileParts(file, ranges[name]) for name, file in data.items()}
    tensors = {name: _put_together(name, tensor, numbers, parts) for name, tensor in chosen.items()}
    whole = [load_whole(file)[1] for file in described]
    return [
        StoredFile(file=whole[0], tensors=tensors, notes=weights.notes),
        *(StoredFile(file=file, tensors={}) for file in whole[1:]),
        *(StoredFile(file=file, tensors={}) for file in parts.values()),
    ]


def _needed(
    described: InputFile, chosen: Mapping[str, ChunkedTensor], data: Mapping[str, InputFile]
) -> Mapping[str, Sequence[Range]]:
    """The bytes of each file that hold the model, checked to be there."""
    ranges: dict[str, list[Range]] = defaultdict(list)
    for name, tensor in chosen.items():
        for chunk in tensor.chunks:
            stored = chunk.stored
            if (file := data.get(stored.file)) is None:
                raise corrupt(described.path, f"has a part of `{name}` in `{stored.file}`, which is not beside it")
            if stored.range[1] > file.size:
                raise corrupt(
                    file.path, f"is {file.size:,} bytes long, but a part of `{name}` ends at byte {stored.range[1]:,}"
                )
            if stored.transforms:
                raise _transformed(described, name, stored.transforms)
            ranges[stored.file].append(stored.range)
    return defaultdict(list, ranges)


def _put_together(
    name: str, tensor: ChunkedTensor, numbers: Mapping[str, int], parts: Mapping[str, FileParts]
) -> Pieces:
    pieces = []
    for chunk in tensor.chunks:
        source = parts[chunk.stored.file]
        offset = source.position_of(chunk.stored.range[0])
        info = TensorInfo(shape=sides(chunk.box), dtype=tensor.info.dtype)
        find = partial(_place_of, name, info, source, (offset, offset + chunk.stored.range[1] - chunk.stored.range[0]))
        pieces.append(PieceInFile(chunk.box, numbers[chunk.stored.file], offset, find))
    return pieces_in_order(tensor.info, pieces)


def _place_of(name: str, info: TensorInfo, source: FileParts, place: Range) -> InFile:
    """Where the numbers of a chunk are, within the needed bytes of its file."""
    try:
        return _in_archive(name, info, source, place)
    except Unwanted as error:
        raise refusal(source.path, error) from error
    except Malformed as error:
        text = str(error)
        clause = text if text.startswith("must ") else f"must hold chunks of `torch.save`, but for `{name}` {text}"
        raise corrupt(source.path, clause) from error


def _in_archive(name: str, info: TensorInfo, source: FileParts, place: Range) -> InFile:
    chunk = FileParts(source, [place])
    if not is_zip(chunk):
        raise Malformed("there is something else")
    archive = open_archive(chunk)
    tensor = wanted(follow(archive.pickle())).value
    if not isinstance(tensor, StoredTensor):
        raise Malformed("there is something else")
    if tensor.info != info:
        raise Malformed(f"there is {_told(tensor.info)}, and `.metadata` says {_told(info)}")
    if not archive.tells_places:
        raise Malformed("the chunk is compressed, or of another byte order")
    return RecordsInFile(archive=archive).place(name, tensor).moved(place[0])


def _told(info: TensorInfo) -> str:
    return f"{str(info.dtype).removeprefix('torch.')} of shape {list(info.shape)}"


def _transformed(described: InputFile, name: str, transforms: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        "unsupported-tensors",
        f"The chunks of `{described.path.parent}` must be stored as they are, but `{name}` was transformed by "
        f"{', '.join(transforms)[:200]} when it was saved. Save it without `_extensions`, or convert it with "
        f"`torch.distributed.checkpoint.format_utils.dcp_to_torch_save`.",
    )
