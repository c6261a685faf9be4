"""Hostile folders by chance: valid ones with a few changes, in the terms of each format or of its bytes."""

from __future__ import annotations

import copy
import functools
import io
import json
import math
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.fuzz import valid
from tests.fuzz.forms import (
    Files,
    archive,
    as_json,
    call,
    chunk,
    entry,
    get,
    glob,
    legacy,
    legacy_storage,
    listed,
    mapping,
    new,
    npy,
    npz,
    number,
    png,
    pt,
    put,
    safetensors,
    several,
    storage,
    tensor,
    text,
)


class Case(NamedTuple):
    target: str
    files: Files


Draw = Callable[[st.SearchStrategy[Any]], Any]

EDGES = (0, 1, 2, 3, 4, 7, 8, 12, 13, 255, 256, 4095, 65_535, 65_536, 10**6, 10**9, 2**31 - 1, 2**31, 2**32, 2**53)
HUGE = (2**62, 2**63 - 1, 2**63, 2**64, 10**30, 10**400)
numbers = st.one_of(
    st.sampled_from([*EDGES, *HUGE]), st.sampled_from(EDGES).map(lambda edge: -edge), st.integers(-5, 70)
)
texts = st.sampled_from(
    [
        *(
            "",
            "w",
            "b",
            "cat",
            "model",
            "float32",
            "F32",
            "I64",
            "..",
            "../x",
            "/etc/passwd",
            "a\0b",
            "\ud800",
            "\x1b[2J",
        ),
        *(
            "\u202e",
            "\u00b3",
            "n" * 300,
            "x" * 5_000,
            "evil/kernel",
            "os.system",
            "None",
            "nan",
            "1e999",
            "-1",
            "9" * 5_000,
        ),
    ]
)
scalars = st.one_of(
    numbers, texts, st.none(), st.booleans(), st.sampled_from([math.nan, math.inf, -math.inf, 0.5, -0.0, 1e308, 1e-320])
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


def usually(value: Any, others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """So that most of a file is right, and what comes after the first check is tried too."""
    return st.integers(0, 4).flatmap(lambda number: others if number == 4 else st.just(value))


# ---- bytes ---------------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: Draw, content: bytes, most: int = 4) -> bytes:
    """With a few bytes changed, cut away, put in or repeated."""
    damaged = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        place = draw(st.integers(0, max(len(damaged) - 1, 0)))
        length = draw(st.integers(1, 40))
        match draw(st.sampled_from(["set", "number", "remove", "insert", "repeat", "cut"])):
            case "set":
                damaged[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case "number":
                form = draw(st.sampled_from(["<H", ">H", "<I", ">I", "<Q", ">Q"]))
                edge = draw(st.sampled_from([*EDGES, *HUGE[:4], -1]))
                packed = struct.pack(form, edge % (1 << 8 * struct.calcsize(form)))
                damaged[place : place + len(packed)] = packed
            case "remove":
                del damaged[place : place + length]
            case "insert":
                damaged[place:place] = draw(st.binary(max_size=length))
            case "repeat":
                damaged[place:place] = damaged[place : place + length] * draw(st.sampled_from([1, 3, 1000]))
            case _:
                del damaged[place:]
    return bytes(damaged)


# ---- JSON ----------------------------------------------------------------------------------------------------------


@st.composite
def changed(draw: Draw, document: Any, most: int = 3) -> Any:
    """A document with a few values or names in it changed, left out or added."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        document = _change(draw, document)
    return document


def _change(draw: Draw, document: Any) -> Any:
    holder, key = None, None
    value = document
    while isinstance(value, (dict, list)) and value and draw(st.integers(0, 4)):
        holder = value
        key = draw(st.sampled_from(sorted(value))) if isinstance(value, dict) else draw(st.integers(0, len(value) - 1))
        value = value[key]
    if holder is None:
        # Rarely another document altogether.
        return document if draw(st.integers(0, 9)) else draw(values)
    match draw(st.sampled_from(["replace", "replace", "near", "remove", "add", "rename"])):
        case "replace":
            holder[key] = draw(values)
        case "near":
            holder[key] = _near(draw, value)
        case "remove":
            del holder[key]
        case "add" if isinstance(holder, dict):
            holder[draw(texts)] = draw(values)
        case "add":
            holder.insert(key, draw(values))
        case _ if isinstance(holder, dict):
            holder[draw(texts)] = holder.pop(key)
    return document


def _near(draw: Draw, value: Any) -> Any:
    """Something of the same type."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return draw(st.one_of(st.just(value + 1), st.just(value - 1), st.just(value * 2), numbers))
    if isinstance(value, float):
        return draw(st.one_of(st.floats(), st.just(-value)))
    if isinstance(value, str):
        return draw(texts)
    return [value] if isinstance(value, list) else {"x": value}


def json_of(name: str, target: str, files: Callable[[], Files], document: Callable[[], Any]) -> st.SearchStrategy[Case]:
    """One JSON file of a folder, changed."""

    def case(changed_document: Any) -> Case:
        return Case(target, {**files(), name: as_json(changed_document)})

    return st.deferred(lambda: changed(document())).map(case)


# ---- safetensors ---------------------------------------------------------------------------------------------------

HEADER = {"__metadata__": {"format": "pt"}, "w": entry([4, 3]), "b": entry([], 48), "n": entry([2], 52, 68, "I64")}
DATA = struct.pack("<13f2q", *range(1, 14), 7, 8)


@st.composite
def safetensors_files(draw: Draw) -> Case:
    header = draw(changed(HEADER))
    content = safetensors(header, DATA[: draw(st.sampled_from([len(DATA), len(DATA), 0, 48]))])
    if not draw(st.integers(0, 3)):
        content = draw(damaged(content))
    return Case("combine", valid.beside("step-2.safetensors", content))


# ---- pickles -------------------------------------------------------------------------------------------------------

shapes = st.lists(st.one_of(st.integers(0, 5), numbers), max_size=4)


@st.composite
def tensors(draw: Draw, is_legacy: bool) -> bytes:
    shape = draw(usually([4, 3], shapes))
    stride = draw(usually([3, 1] if shape == [4, 3] else shape, shapes))
    count, kind = draw(usually(12, numbers)), draw(usually("FloatStorage", STORAGES))
    if is_legacy:
        held = legacy_storage(count, kind=kind)
    else:
        held = storage(count, draw(usually("0", st.sampled_from(["1", "../x"]))), kind)
    return tensor(shape, stride, held=held, offset=draw(usually(0, numbers)), count=12)


STORAGES = st.sampled_from(["HalfStorage", "LongStorage", "ByteStorage", "QInt8Storage", "ComplexFloatStorage", "X"])
NAMES = st.sampled_from(
    [
        *("collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.bytearray", "builtins.complex"),
        *("torch.Size", "torch.device", "torch.Tensor", "torch.FloatTensor", "torch.float32", "torch.FloatStorage"),
        *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"),
        *("torch._utils._rebuild_parameter", "torch._utils._rebuild_qtensor", "torch._utils._rebuild_sparse_tensor"),
        *("torch._tensor._rebuild_from_type_v2", "torch._utils._rebuild_meta_tensor_no_storage", "_codecs.encode"),
        *("torch._utils._rebuild_nested_tensor", "torch._utils._rebuild_wrapper_subclass", "numpy.dtype"),
        *("numpy._core.multiarray._reconstruct", "numpy.core.multiarray.scalar", "numpy.ndarray"),
        *("torch.nn.parameter.Parameter", "torch.serialization._get_layout", "torch.storage.UntypedStorage"),
        *("os.system", "builtins.eval", "builtins.getattr", "posix.mkdir", "torch.load", "argparse.Namespace"),
        *("my.Config", "functools.partial", "copyreg._reconstructor", "copyreg.__newobj__", "collections.defaultdict"),
        *("collections.deque", "builtins.dict", "builtins.bytes", "torch.distributed.tensor.DTensor"),
    ]
)
PICKLED_VALUES = st.one_of(
    *(numbers.filter(lambda value: abs(value) < 10**300).map(number), texts.map(text)),
    *(
        st.just(code)
        for code in (pickle.NONE, pickle.NEWTRUE, pickle.EMPTY_TUPLE, pickle.EMPTY_LIST, pickle.EMPTY_DICT)
    ),
    st.integers(0, 6).map(get),
    NAMES.map(glob),
)


def _joined(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join(key + value for key, value in pairs)


def module_like(*items: tuple[bytes, bytes]) -> bytes:
    """An object with the attributes of a module."""
    parts = ((text(part), mapping(*items)) for part in ("_parameters", "_buffers", "_modules"))
    return new("my.Net") + mapping(*parts) + pickle.BUILD


@functools.cache
def pickled_values(is_legacy: bool) -> st.SearchStrategy[bytes]:
    def larger(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
        few = st.lists(inner, max_size=5)
        pairs = st.lists(st.tuples(inner, inner), max_size=4)
        return st.one_of(
            few.map(lambda each: several(*each)),
            few.map(lambda each: listed(*each)),
            pairs.map(lambda each: mapping(*each)),
            st.tuples(NAMES, few).map(lambda each: call(each[0], *each[1])),
            st.tuples(NAMES, few).map(lambda each: new(each[0], *each[1])),
            st.tuples(inner, st.integers(0, 6)).map(lambda each: each[0] + put(each[1])),
            st.tuples(inner, inner).map(lambda each: each[0] + each[1] + pickle.BUILD),
            inner.map(lambda each: each + pickle.BINPERSID),
            few.map(lambda each: pickle.MARK + b"".join(each) + pickle.FROZENSET),
            few.map(lambda each: pickle.MARK + b"".join(each) + pickle.OBJ),
            st.tuples(inner, few).map(lambda each: each[0] + pickle.MARK + b"".join(each[1]) + pickle.APPENDS),
            st.tuples(inner, pairs).map(lambda each: each[0] + pickle.MARK + _joined(each[1]) + pickle.SETITEMS),
            pairs.map(lambda each: module_like(*each)),
        )

    return st.recursive(st.one_of(PICKLED_VALUES, tensors(is_legacy)), larger, max_leaves=12)


@st.composite
def made_pickles(draw: Draw) -> Case:
    """State dicts with anything in them."""
    is_legacy = draw(st.booleans())
    names = st.one_of(
        st.sampled_from(["w", "b", "model", "state_dict", "ema", "epoch", "optimizer"]).map(text), PICKLED_VALUES
    )
    items = draw(st.lists(st.tuples(names, pickled_values(is_legacy)), max_size=5))
    value = mapping((text("w"), draw(tensors(is_legacy))), *items)
    content = legacy(value, {"0": (12, DATA[:48])}) if is_legacy else pt(value, DATA[:48])
    return Case("combine", valid.beside("step-2.pt", content))


def content_of_pickle() -> bytes:
    with zipfile.ZipFile(io.BytesIO(valid.pickles()["step-2.pt"])) as zipped:
        return zipped.read(next(name for name in zipped.namelist() if name.endswith("data.pkl")))


@functools.cache
def opcodes(content: bytes) -> Sequence[bytes]:
    """Of a real file."""
    places = [place for _, _, place in pickletools.genops(content)]
    return [content[start:end] for start, end in zip(places, [*places[1:], len(content)], strict=True)]


def mixed(draw: Draw, content: bytes) -> bytes:
    """A real pickle with some of its opcodes left out, repeated, moved, or others among them."""
    codes = list(opcodes(content))
    for _ in range(draw(st.integers(1, 4))):
        place, other = draw(st.integers(0, len(codes) - 1)), draw(st.integers(0, len(codes) - 1))
        match draw(st.sampled_from(["remove", "repeat", "swap", "copy", "insert", "value"])):
            case "remove" if len(codes) > 1:
                del codes[place]
            case "repeat":
                codes[place:place] = codes[place : place + 5] * draw(st.sampled_from([1, 2, 500]))
            case "swap":
                codes[place], codes[other] = codes[other], codes[place]
            case "copy":
                codes.insert(place, codes[other])
            case "insert":
                codes.insert(place, bytes([draw(st.integers(0, 255))]))
            case _:
                codes.insert(place, draw(PICKLED_VALUES))
    return b"".join(codes)


@st.composite
def mixed_pickles(draw: Draw) -> Case:
    content = mixed(draw, content_of_pickle())
    with zipfile.ZipFile(io.BytesIO(valid.pickles()["step-2.pt"])) as zipped:
        records = {info.filename: zipped.read(info) for info in zipped.infolist()}
    records = {name: content if name.endswith("data.pkl") else each for name, each in records.items()}
    return Case("combine", {**valid.pickles(), "step-2.pt": archive(records)})


@st.composite
def descriptions(draw: Draw) -> Case:
    """Of a DCP checkpoint."""
    content = mixed(draw, valid.sharded()["step-2/.metadata"])
    return Case("combine", valid.described(draw(damaged(content)) if not draw(st.integers(0, 3)) else content))


@st.composite
def plain_pickles(draw: Draw) -> Case:
    """Any values in any protocol, damaged or with values and opcodes among them; and a real one of protocol 5."""
    content = pickle.dumps(draw(values), draw(st.integers(0, 5)))
    if draw(st.booleans()):
        content = valid.values()["values.pkl"]
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(content)))
        content = content[:place] + draw(st.one_of(PICKLED_VALUES, st.binary(max_size=2))) + content[place:]
    return Case("values", {"values.pkl": draw(damaged(content)) if draw(st.booleans()) else content})


@st.composite
def archives(draw: Draw) -> Case:
    """Archives whose tables of contents say something else than what is there."""
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))
    with zipfile.ZipFile(io.BytesIO(valid.pickles()["step-2.pt"])) as zipped:
        records = {info.filename: zipped.read(info) for info in zipped.infolist()}
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(records)))
        match draw(st.sampled_from(["remove", "rename", "empty", "other"])):
            case "remove" if len(records) > 1:
                del records[name]
            case "rename":
                renamed = draw(
                    texts.filter(lambda each: 0 < len(each) < 60_000 and each.isascii() and "\0" not in each)
                )
                records[renamed] = records.pop(name)
            case "empty":
                records[name] = b""
            case _:
                records[name] = draw(st.sampled_from([b"big", b"little", b"x" * 40, records[name][:-3]]))
    content = archive(records, method, aligned=False)
    start = content.rfind(b"PK\x01\x02") if draw(st.booleans()) else max(content.find(b"PK\x01\x02"), 0)
    if draw(st.booleans()):
        content = content[:start] + draw(damaged(content[start:]))
    return Case("combine", {**valid.pickles(), "step-2.pt": content})


# ---- arrays --------------------------------------------------------------------------------------------------------

DTYPES = st.sampled_from(
    [
        *["'|u1'"] * 5,
        *("'<i8'", "'<f4'", "'>f4'", "'<f8'", "'<f2'", "'|b1'", "'|O'", "'<U3'", "'|S9'", "'|V0'", "'<c8'", "'<M8[s]'"),
        *("[('a', '|u1')]", "[('a', '|O')]", "('|u1', (2, 2))", "'<f16'", "'|S2147483647'", "''", "'x'", "None", "{}"),
    ]
)


@st.composite
def arrays(draw: Draw, count: int, dtype: str) -> bytes:
    shape = draw(
        usually([count, 8, 8] if dtype == "'|u1'" else [count], st.lists(st.one_of(numbers, texts), max_size=5))
    )
    described = draw(usually(dtype, DTYPES))
    order = draw(usually("False", st.sampled_from(["True", "1", "None"])))
    header = f"{{'descr': {described}, 'fortran_order': {order}, 'shape': {tuple(shape)!r}, }}\n"
    size = draw(usually(count * 64 if dtype == "'|u1'" else count * 8, st.integers(0, 600)))
    encoded = header.encode("utf-8", "surrogatepass")[:60_000]
    content = npy(encoded, version=draw(usually((1, 0), st.sampled_from([(2, 0), (3, 0), (4, 4)])))) + bytes(size)
    return content if draw(st.integers(0, 9)) else draw(damaged(content, 2))


@st.composite
def array_files(draw: Draw) -> Case:
    names = {"images": draw(arrays(4, "'|u1'")), "labels": draw(arrays(4, "'<i8'"))}
    content = npz(names, draw(st.sampled_from([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])))
    if not draw(st.integers(0, 3)):
        content = draw(damaged(content))
    return Case("data", valid.with_data("set.npz", content))


@st.composite
def tensor_sets(draw: Draw) -> Case:
    header = draw(changed({"images": entry([4, 8, 8], 0, 256, "U8"), "labels": entry([4], 256, 288, "I64")}))
    return Case("data", valid.with_data("set.safetensors", safetensors(header, bytes(288))))


# ---- images --------------------------------------------------------------------------------------------------------


@st.composite
def pngs(draw: Draw) -> Case:
    """With chunks of any kind whose checksums are right."""
    kinds = st.sampled_from(
        [
            b"tEXt",
            b"zTXt",
            b"iTXt",
            b"iCCP",
            b"eXIf",
            b"acTL",
            b"fcTL",
            b"fdAT",
            b"tRNS",
            b"PLTE",
            b"gAMA",
            b"IHDR",
            b"IEND",
        ]
    )
    packed = st.binary(max_size=40).map(lambda each: b"a\0\0" + zlib.compress(each * 100))
    chunks = st.lists(st.tuples(kinds, st.one_of(st.binary(max_size=60), packed)), max_size=4)
    sides = st.one_of(st.integers(0, 9), st.sampled_from([*EDGES, 2**31 - 1]))
    pixels = draw(st.one_of(st.none(), st.binary(max_size=50), st.binary(max_size=90).map(zlib.compress)))
    image = png(
        draw(sides),
        min(draw(sides), 10**6),
        *[chunk(*each) for each in draw(chunks)],
        pixels=zlib.compress(bytes(100)) if pixels is None else pixels,
        last=b"".join(chunk(*each) for each in draw(chunks)),
        bits=draw(st.sampled_from([8, 8, 16, 1, 2, 4, 3])),
    )
    return Case("data", valid.with_image("0.png", draw(damaged(image)) if not draw(st.integers(0, 3)) else image))


@st.composite
def images(draw: Draw) -> Case:
    kind, suffix = draw(st.sampled_from([("JPEG", "jpg"), ("WEBP", "webp"), ("BMP", "bmp"), ("PNG", "png")]))
    return Case("data", valid.with_image(f"0.{suffix}", draw(damaged(_image(kind)))))


@functools.cache
def _image(kind: str) -> bytes:
    return valid.image(kind)


# ---- all -----------------------------------------------------------------------------------------------------------


@st.composite
def any_bytes(draw: Draw) -> Case:
    """One file of any valid folder, damaged."""
    target, files = draw(st.sampled_from(list(valid.VALID.values())))
    name = draw(st.sampled_from(sorted(files())))
    return Case(target, {**files(), name: draw(damaged(files()[name]))})


def _parsed(name: str, files: Callable[[], Files]) -> Callable[[], Any]:
    return lambda: json.loads(files()[name])


CONFIG, PROCESSOR = "run/checkpoint-20/config.json", "run/checkpoint-20/preprocessor_config.json"
STATE, RECIPE = "run/checkpoint-20/trainer_state.json", "result/coefficients.json"
INDEX = "checkpoint-2/model.safetensors.index.json"

GENERATORS: dict[str, st.SearchStrategy[Case]] = {
    "bytes": any_bytes(),
    "safetensors": safetensors_files(),
    "made pickles": made_pickles(),
    "mixed pickles": mixed_pickles(),
    "plain pickles": plain_pickles(),
    "descriptions": descriptions(),
    "archives": archives(),
    "index": json_of(INDEX, "combine", valid.shards, _parsed(INDEX, valid.shards)),
    "modules": json_of("modules.json", "combine", valid.plain, lambda: [{"path": "1_Pooling", "type": "x"}]),
    "config": json_of(CONFIG, "job", valid.job, _parsed(CONFIG, valid.job)),
    "processor": json_of(PROCESSOR, "job", valid.job, _parsed(PROCESSOR, valid.job)),
    "trainer state": json_of(STATE, "job", valid.job, _parsed(STATE, valid.job)),
    "npz": array_files(),
    "tensor set": tensor_sets(),
    "png": pngs(),
    "images": images(),
    "rebuild": json_of(RECIPE, "rebuild", valid.recipe, _parsed(RECIPE, valid.recipe)),
}
