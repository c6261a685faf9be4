"""Hostile `.metadata` of DCP checkpoints, made by hand: rows of the corpus."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterable

from tests.fuzz import valid
from tests.fuzz.forms import call, get, glob, listed, mapping, new, number, pickled, put, several, text

CORRUPT, UNSAFE, UNSUPPORTED = "corrupt-checkpoint", "unsafe-checkpoint", "unsupported-tensors"
MISMATCHED = "mismatched-checkpoints"
"""It is read, and has one tensor where the other checkpoint has three."""
METADATA = "torch.distributed.checkpoint.metadata"
STORAGE_INFO = "torch.distributed.checkpoint.filesystem._StorageInfo"
MANY = 60 << 20
"""Bytes."""


def size(*sides: int) -> bytes:
    return call("torch.Size", several(*map(number, sides)))


def record(name: str, **attributes: bytes) -> bytes:
    return new(name) + mapping(*((text(key), value) for key, value in attributes.items())) + pickle.BUILD


def described(offsets: bytes, sizes: bytes) -> bytes:
    return record(f"{METADATA}.ChunkStorageMetadata", offsets=offsets, sizes=sizes)


def index(name: bytes, offset: bytes) -> bytes:
    return record(f"{METADATA}.MetadataIndex", fqn=name, offset=offset, index=number(0))


def stored(path: str = "__0_0.distcp", offset: int = 0, length: int = 2_000, **more: bytes) -> bytes:
    return record(STORAGE_INFO, relative_path=text(path), offset=number(offset), length=number(length), **more)


PROPERTIES = (
    new(f"{METADATA}.TensorProperties")
    + several(glob("torch.float32"), call("torch.serialization._get_layout", text("torch.strided")), pickle.NEWFALSE)
    + pickle.BUILD
)


def tensor(shape: bytes, *chunks: bytes) -> bytes:
    return record(f"{METADATA}.TensorStorageMetadata", properties=PROPERTIES, size=shape, chunks=listed(*chunks))


W = index(text("w"), size(0, 0)), stored()
ONE = described(size(0, 0), size(4, 3))


def whole(
    tensors: Iterable[tuple[bytes, bytes]] = ((text("w"), tensor(size(4, 3), ONE)),),
    places: Iterable[tuple[bytes, bytes]] = (W,),
    planner: bytes = pickle.NONE,
    before: bytes = b"",
) -> bytes:
    """`before` is made, remembered perhaps, and thrown away."""
    kept = before + pickle.POP if before else b""
    made = record(
        f"{METADATA}.Metadata",
        state_dict_metadata=mapping(*tensors),
        storage_data=mapping(*places),
        planner_data=planner,
    )
    return pickled(kept + made)


def of_one(shape: bytes, *chunks: bytes, before: bytes = b"") -> bytes:
    return whole([(text("w"), tensor(shape, *chunks))], before=before)


def tower(levels: int = 200) -> bytes:
    """A tuple of two that are the same, of two that are the same ...; at place 0 of the memo."""
    made = pickle.EMPTY_TUPLE
    for level in range(1, levels):
        made += put(level) + get(level) + pickle.TUPLE2
    return made + put(0)


def rows_of(count: int) -> bytes:
    """A tensor of so many rows, each of them a chunk of its own: right, but for the bytes that are not there."""
    return whole(
        [(text("w"), tensor(size(count, 3), *(described(size(row, 0), size(1, 3)) for row in range(count))))],
        ((index(text("w"), size(row, 0)), stored(offset=row * 2_000)) for row in range(count)),
    )


@functools.cache
def real() -> bytes:
    return valid.sharded()["step-2/.metadata"]


def of_classes_in_the_memo(content: Callable[[], bytes], num_bytes: int) -> bytes:
    """The same again and again in a list, with the class of what is stored at place 0 of the memo, and its attributes
    at place 1 to 3."""
    attributes = [text("relative_path"), text("offset"), text("length")]
    before = glob(STORAGE_INFO) + put(0) + b"".join(each + put(at) for at, each in enumerate(attributes, start=1))
    piece = content()
    return pickled(before + listed(*[piece] * (num_bytes // len(piece))))


def short_record() -> bytes:
    return (
        get(0)
        + (pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        + mapping((get(1), get(1)), (get(2), pickle.BININT1 + b"\1"), (get(3), pickle.BININT1 + b"\1"))
        + pickle.BUILD
    )


DESCRIPTIONS: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "good": (real, None),
    "by hand": (whole, MISMATCHED),
    "empty": (lambda: b"", CORRUPT),
    "cut": (lambda: real()[: len(real()) // 2], CORRUPT),
    "a number": (lambda: pickled(number(3)), CORRUPT),
    "a list in itself": (lambda: pickled(pickle.EMPTY_LIST + put(0) + get(0) + pickle.APPEND), CORRUPT),
    # Code
    "code": (lambda: pickled(call("os.system", text("touch canary"))), UNSAFE),
    "code in the keys": (lambda: whole(planner=mapping((text("w"), call("os.system", text("touch x"))))), UNSAFE),
    "code in a chunk": (lambda: of_one(size(4, 3), described(call("builtins.eval", text("1")), size(4, 3))), CORRUPT),
    "code as the class of a chunk": (lambda: of_one(size(4, 3), record("os.system", offsets=size(0))), UNSAFE),
    "code in a place": (
        lambda: whole(places=[(W[0], stored(transform_descriptors=listed(call("os.system", text("x")))))]),
        CORRUPT,
    ),
    "code that is thrown away": (lambda: whole(before=call("os.system", text("touch canary"))), UNSAFE),
    # Values
    "no attributes": (lambda: pickled(new(f"{METADATA}.Metadata")), CORRUPT),
    "attributes of a number": (lambda: pickled(new(f"{METADATA}.Metadata") + number(3) + pickle.BUILD), CORRUPT),
    "places of a list": (
        lambda: pickled(record(f"{METADATA}.Metadata", state_dict_metadata=mapping(), storage_data=listed())),
        CORRUPT,
    ),
    "an index without a name": (lambda: whole(places=[(record(f"{METADATA}.MetadataIndex"), stored())]), CORRUPT),
    "an index that is a text": (lambda: whole(places=[(text("w"), stored())]), CORRUPT),
    "an index whose name is a tower": (
        lambda: whole(places=[(index(get(0), size(0)), stored())], before=tower()),
        CORRUPT,
    ),
    "an index whose place is a tower": (
        lambda: whole(places=[(index(text("w"), get(0)), stored())], before=tower()),
        CORRUPT,
    ),
    "an index that is a tower": (lambda: whole(places=[(get(0), stored())], before=tower()), CORRUPT),
    "a path that is a tower": (lambda: whole(planner=mapping((text("w"), get(0))), before=tower()), MISMATCHED),
    "sides of 2^70": (lambda: of_one(size(1 << 70, 3), ONE), CORRUPT),
    "sides whose product overflows": (lambda: of_one(size(1 << 40, 1 << 40), ONE), CORRUPT),
    "a side of -4": (lambda: of_one(size(-4, 3), ONE), CORRUPT),
    "a thousand sides": (lambda: of_one(size(*[1] * 1000), described(size(*[0] * 1000), size(*[1] * 1000))), CORRUPT),
    "chunks cut in 20 dimensions": (
        lambda: of_one(
            size(*[2] * 20), *(described(size(*[0] * 19, at), size(*[2] * 19, 1)) for at in (0, 1)), before=b""
        ),
        CORRUPT,
    ),
    "a chunk that begins before its tensor": (lambda: of_one(size(4, 3), described(size(-1, 0), size(5, 3))), CORRUPT),
    "a file elsewhere": (lambda: whole(places=[(W[0], stored("../../etc/passwd"))]), CORRUPT),
    "a file of half a pair": (lambda: whole(places=[(W[0], stored("\ud800"))]), CORRUPT),
    "bytes beyond the file": (lambda: whole(places=[(W[0], stored(offset=1 << 40))]), CORRUPT),
    "bytes of 2^70": (lambda: whole(places=[(W[0], stored(length=1 << 70))]), CORRUPT),
    "a sparse tensor": (lambda: whole().replace(b"torch.strided", b"torch.sparse_"), UNSUPPORTED),
    # Work and memory
    "one chunk in 50,000 places": (
        lambda: of_one(size(4, 3), *[get(0)] * 50_000, before=ONE + put(0)),
        CORRUPT,
    ),
    "50,000 transforms of 1,000 chunks": (
        lambda: whole(
            places=((index(text(f"w{at}"), size(0)), stored(transform_descriptors=get(0))) for at in range(1_000)),
            before=listed(*[text("x") + put(1), *[get(1)] * 50_000]) + put(0),
        ),
        CORRUPT,
    ),
    "long texts that are shared": (
        lambda: whole(
            places=(
                (index(get(0), size(at)), stored(transform_descriptors=listed(*[get(0)] * 8))) for at in range(4_000)
            ),
            before=text("x" * 900_000) + put(0),
        ),
        CORRUPT,
    ),
    "the attributes of one record are those of all": (
        lambda: whole(
            places=((new(STORAGE_INFO) + get(0) + pickle.BUILD, number(at)) for at in range(2_000)),
            before=mapping((text("relative_path"), text("x"))) + put(0),
        ),
        CORRUPT,
    ),
    "the places are the attributes of a record in them": (
        lambda: pickled(
            record(
                f"{METADATA}.Metadata",
                state_dict_metadata=mapping((text("w"), tensor(size(4, 3), ONE))),
                storage_data=mapping(
                    (text("relative_path"), text("x")), (text("offset"), number(1)), (text("length"), number(1))
                )
                + put(0)
                + (new(STORAGE_INFO) + get(0) + pickle.BUILD + pickle.POP),
            )
        ),
        CORRUPT,
    ),
    "attributes that are used again": (
        lambda: whole(
            planner=mapping((text("w"), get(7))),
            before=new(STORAGE_INFO)
            + put(6)
            + mapping((text("relative_path"), text("x")), (text("offset"), number(1)), (text("length"), number(1)))
            + put(7)
            + pickle.BUILD,
        ),
        MISMATCHED,
    ),
    "200,000 names for nothing": (lambda: whole(_values(200_000), places=[W]), CORRUPT),
    "60 MB of names for nothing": (lambda: whole(_values(MANY // 80), places=[W]), CORRUPT),
    "60 MB of lists": (lambda: pickled(listed(pickle.EMPTY_LIST * MANY)), CORRUPT),
    "60 MB of open marks": (lambda: pickled(pickle.MARK * MANY), CORRUPT),
    "60 MB of remembered nothing": (lambda: pickled(listed((pickle.NONE + pickle.MEMOIZE) * (MANY // 2))), CORRUPT),
    "10 MB of short records": (lambda: of_classes_in_the_memo(short_record, 10 << 20), CORRUPT),
    "60 MB of lists in the state of a record": (
        lambda: of_classes_in_the_memo(lambda: short_record() + pickle.EMPTY_LIST * 8, MANY),
        CORRUPT,
    ),
    "60 MB of chunks that are right": (lambda: rows_of(MANY // 640), CORRUPT),
    "thirty million opcodes": (lambda: pickled(listed(pickle.NONE * 30_000_000)), CORRUPT),
}
"""Name -> content, and the reason for which it is refused; None where it is read."""


def _values(count: int) -> Iterable[tuple[bytes, bytes]]:
    return ((text(f"{at}"), record(f"{METADATA}.BytesStorageMetadata")) for at in range(count))
