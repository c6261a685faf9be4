"""Hostile folders, each with the reason for which it is refused; None for one that is read.

What the fuzzer finds becomes a row here. Rows are made by code, so that they can be read.
"""

from __future__ import annotations

import bz2
import functools
import io
import json
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from tests.fuzz import valid
from tests.fuzz.descriptions import DESCRIPTIONS
from tests.fuzz.forms import (
    PLAIN,
    Files,
    archive,
    array,
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
    pickled,
    png,
    pt,
    put,
    safetensors,
    several,
    storage,
    tensor,
    text,
)
from tests.fuzz.valid import beside, changed_json, with_data, with_image

CORRUPT, UNSAFE, UNSUPPORTED = "corrupt-checkpoint", "unsafe-checkpoint", "unsupported-tensors"
MISMATCHED, MODEL, DATA = "mismatched-checkpoints", "model-mismatch", "invalid-data"
DEEP = b"[" * 100_000


@dataclass(frozen=True)
class Row:
    name: str
    target: str
    make: Callable[[], Files]
    reason: str | None

    @property
    def most_mb(self) -> int:
        """Of memory."""
        return MOST_MB_OF_PICKLES if self.name.startswith(("pickles", "descriptions")) else MOST_MB


MOST_MB_OF_PICKLES, MOST_MB = 200, 768


SLOW = frozenset(
    {
        "safetensors: a million names",
        "safetensors: a hundred thousand names",
        "pickles: thirty million opcodes",
        "pickles: thirty million opcodes, compressed",
        "pickles: twenty million open marks",
        "pickles: a gigabyte of opcodes, compressed",
        "pickles: a byte order of 1 GB",
        "pickles: copies of a long list",
        "pickles: copies of a long tuple",
        "pickles: wide texts",
        "pickles: a million objects",
        "pickles: a memo of everything",
        "pickles: the same again and again",
        "pickles: objects in objects",
        "pickles: states in states",
        "pickles: a tower of modules",
        "pickles: many keys of one large module",
        "pickles: many objects around one large module",
        "pickles: many averages of one large module",
        "pickles: a text of 40 MB",
        "pickles: bytes of 40 MB",
        "pickles: a line of 40 MB",
        "pickles: a million lists",
        "pickles: tuples in tuples",
        "pickles: tuples in tuples as a key",
        "pickles: many averages of one long list",
        "pickles: code below deep dicts",
        "descriptions: 60 MB of chunks that are right",
        "descriptions: 10 MB of short records",
        "descriptions: 60 MB of remembered nothing",
        "descriptions: 200,000 names for nothing",
        "descriptions: 60 MB of names for nothing",
        "descriptions: 60 MB of lists in the state of a record",
        "descriptions: thirty million opcodes",
        "indices: a million names",
        "arrays: 8 GB of zeros",
        "arrays: 100,000 members",
        "pickles: an archive of 70,000 records",
        "pngs: 8,000 x 8,000 of 16 bits",
    }
)
"""Names of rows that take more than a second, to make or to read: tried by `make fuzz` alone."""


def rows() -> Iterator[Row]:
    for target, group, wrap in (
        ("combine", SAFETENSORS, lambda content: beside("step-2.safetensors", content)),
        ("combine", PICKLES, lambda content: {"step-1.pt": pt(weights(), bytes(48)), "step-2.pt": content}),
        ("combine", DESCRIPTIONS, valid.described),
        ("combine", INDICES, _indexed),
        ("job", CONFIGS, lambda content: changed_json(valid.job(), "run/checkpoint-20/config.json", content)),
        ("job", PROCESSORS, lambda content: changed_json(valid.job(), PROCESSOR, content)),
        ("job", TRAINER_STATES, lambda content: changed_json(valid.job(), TRAINER_STATE, content)),
        ("data", ARRAYS, lambda content: with_data("set.npz", content)),
        ("data", TENSOR_SETS, lambda content: with_data("set.safetensors", content)),
        ("data", PNGS, lambda content: with_image("0.png", content)),
        ("rebuild", RECIPES, lambda content: changed_json(valid.recipe(), "result/coefficients.json", content)),
        ("resume", STATES, lambda content: {"job/evaluations.pt": content}),
    ):
        for name, (make, reason) in group.items():
            yield Row(f"{group_name(group)}: {name}", target, _files(wrap, make), reason)
    for name, (target, make, reason) in FOLDERS.items():
        yield Row(f"folder: {name}", target, make, reason)


def _files(wrap: Callable[[Any], Files], make: Callable[[], Any]) -> Callable[[], Files]:
    return lambda: wrap(make())


def group_name(group: object) -> str:
    return next(name for name, value in globals().items() if value is group).lower()


Group = dict[str, tuple[Callable[[], Any], str | None]]

GOOD = {"w": entry([4, 3]), "b": entry([], 48), "n": entry([2], 52, 68, "I64")}
GOOD_DATA = struct.pack("<13f2q", *range(1, 14), 7, 8)


def header(**changed: Any) -> bytes:
    """A good file, some of whose entries are others."""
    return safetensors({**GOOD, **changed}, GOOD_DATA)


SAFETENSORS: Group = {
    "good": (header, None),
    "empty": (lambda: b"", "too-few-checkpoints"),
    "seven bytes": (lambda: b"1234567", CORRUPT),
    "a length of 2^63": (lambda: safetensors(GOOD, GOOD_DATA, 1 << 63), CORRUPT),
    "a length of 100 MB": (lambda: safetensors(GOOD, GOOD_DATA, 100_000_000), CORRUPT),
    "no header": (lambda: safetensors(b""), CORRUPT),
    "a list": (lambda: safetensors([]), CORRUPT),
    "not UTF-8": (lambda: safetensors(b'{"\xff": 1}'), CORRUPT),
    "deep": (lambda: safetensors(b'{"a":' * 50_000), CORRUPT),
    "deep metadata": (lambda: safetensors(b'{"__metadata__":' + DEEP), CORRUPT),
    "no tensors": (lambda: safetensors({}), UNSUPPORTED),
    "metadata alone": (lambda: safetensors({"__metadata__": {"format": "pt"}}), UNSUPPORTED),
    "metadata that is a list": (lambda: header(__metadata__=[1, 2]), None),
    "metadata of numbers": (lambda: header(__metadata__={"format": 1, "more": {}}), None),
    "a name twice": (lambda: _twice(), CORRUPT),
    "a dtype that is a list": (lambda: header(w=entry([4, 3], dtype=["F32"])), CORRUPT),
    "a dtype that is an object": (lambda: header(w=entry([4, 3], dtype={})), CORRUPT),
    "a dtype that is long": (lambda: header(w=entry([4, 3], dtype="F" * 5_000)), CORRUPT),
    "a name that is long": (lambda: header(**{"w" * 100_000: entry([4, 3], dtype=None)}), CORRUPT),
    "a name of half a pair": (lambda: header(**{"\ud800": entry([4, 3])}), CORRUPT),
    "a name of newlines and escapes": (lambda: header(**{"\x1b[2J\n`": entry([4, 3])}), CORRUPT),
    "an entry that is a number": (lambda: header(w=3), CORRUPT),
    "a negative side": (lambda: header(w=entry([-4, -3], 0, 48)), CORRUPT),
    "a side that is a float": (lambda: header(w=entry([4.0, 3], 0, 48)), CORRUPT),
    "a side that is true": (lambda: header(w=entry([True, 12], 0, 48)), CORRUPT),
    "a side of 5,000 digits": (lambda: _raw(b"1" * 5_000), CORRUPT),
    "a side that is NaN": (lambda: _raw(b"NaN"), CORRUPT),
    "sides whose product overflows": (lambda: header(w=entry([1 << 32, 1 << 32, 1 << 32], 0, 48)), CORRUPT),
    "sides of nothing, and overflowing": (lambda: header(w=entry([0, 1 << 62, 1 << 62], 0, 0)), CORRUPT),
    "a side of 2^63 beside one of 0": (lambda: _nothing([0, 1 << 63]), CORRUPT),
    "a shape of a million sides": (lambda: header(w=entry([1] * 1_000_000 + [12], 0, 48)), CORRUPT),
    "a shape of 100 sides": (lambda: header(w=entry([1] * 98 + [4, 3], 0, 48)), CORRUPT),
    "sides of a million digits altogether": (lambda: header(w=entry([10**4_000] * 200, 0, 48)), CORRUPT),
    "offsets of 10^400": (lambda: header(w=entry([4, 3], 10**400, 10**400 + 48)), CORRUPT),
    "offsets that overlap": (lambda: header(b=entry([], 44)), CORRUPT),
    "offsets with a hole": (lambda: header(b=entry([], 49)), CORRUPT),
    "offsets that run backwards": (lambda: header(w=entry([4, 3], 48, 0)), CORRUPT),
    "three offsets": (lambda: header(w={**entry([4, 3]), "data_offsets": [0, 48, 48]}), CORRUPT),
    "too little data": (lambda: safetensors(GOOD, GOOD_DATA[:-1]), CORRUPT),
    "too much data": (lambda: safetensors(GOOD, GOOD_DATA + b"1"), CORRUPT),
    "infinite weights": (
        lambda: safetensors(GOOD, struct.pack("<13f2q", *[math.inf] * 13, 7, 8)),
        "non-finite-weights",
    ),
    "a million names": (lambda: safetensors(_names(1_000_000)), CORRUPT),
    "a hundred thousand names": (lambda: safetensors(_names(100_000)), MISMATCHED),
    "a header of 90 MB of spaces": (lambda: safetensors(b"{" + b" " * 90_000_000 + b"}"), UNSUPPORTED),
    "a header of 60 MB of small lists": (lambda: safetensors(b'{"a":[' + b"[]," * 20_000_000 + b"[]]}"), CORRUPT),
    "names that all begin with 400 modules": (lambda: safetensors(_deep_names(1_000, "a.")), MISMATCHED),
    "names that all begin with 140 wrappers": (lambda: safetensors(_deep_names(1_000, "module.")), MISMATCHED),
    "only complex tensors": (lambda: save({"w": torch.ones(4, 3, dtype=torch.complex64)}), MISMATCHED),
    "only integers": (lambda: save({"w": torch.ones(4, 3, dtype=torch.int64)}), UNSUPPORTED),
    "only codes": (lambda: save({"w": torch.ones(4, 3, dtype=torch.int8), "scale": torch.ones(1)}), MISMATCHED),
    "a quantised type": (lambda: header(w=entry([4, 3], 0, 48, "F8_E8M0")), UNSUPPORTED),
    "tensors without numbers": (lambda: _nothing([0, 3]), MISMATCHED),
}


def _twice() -> bytes:
    one = json.dumps(entry([4, 3]))[1:-1]
    return safetensors(f'{{"w": {{{one}}}, "w": {{{one}}}}}'.encode(), GOOD_DATA[:48])


def _raw(side: bytes) -> bytes:
    return safetensors(b'{"w":{"dtype":"F32","shape":[' + side + b'],"data_offsets":[0,48]}}', GOOD_DATA[:48])


def _nothing(shape: list[int]) -> bytes:
    return safetensors({"w": entry(shape, 0, 0)})


def _names(count: int) -> bytes:
    each = b'":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return b"{" + b",".join(b'"%d' % number + each for number in range(count)) + b"}"


LEVELS = 200


def _deep_names(count: int, prefix: str) -> dict[str, Any]:
    deep = prefix * (900 // len(prefix))
    return {f"{deep}{number}": entry([0], 0, 0) for number in range(count)}


def memo_tower() -> bytes:
    """A value of two that are the same, of two that are the same ...: a few bytes that would be 2^200."""
    tower = pickle.EMPTY_TUPLE + put(0)
    for level in range(LEVELS):
        tower += get(level) + get(level) + pickle.TUPLE2 + put(level + 1)
    return several(tower)


def nested(levels: int, opener: bytes = pickle.EMPTY_LIST, closer: bytes = pickle.APPEND) -> bytes:
    return opener * levels + closer * (levels - 1)


OBJECT = pickle.EMPTY_TUPLE + pickle.NEWOBJ
"""Of the class before."""


def nested_objects(levels: int) -> bytes:
    """Each the argument of the next; the class is in the memo."""
    return get(0) * levels + pickle.EMPTY_TUPLE + (pickle.NEWOBJ + pickle.TUPLE1) * levels


def nested_states(levels: int) -> bytes:
    """Each the state of the one before."""
    return glob("a.B") + put(0) + (OBJECT + get(0)) * levels + OBJECT + pickle.BUILD * levels


def module_state(tensors: Iterable[tuple[bytes, bytes]], children: Iterable[tuple[bytes, bytes]]) -> bytes:
    return mapping(
        (text("_parameters"), mapping(*tensors)),
        (text("_buffers"), mapping()),
        (text("_modules"), mapping(*children)),
    )


def module_of(count: int) -> bytes:
    children = ((text(f"c{number}"), _empty_module()) for number in range(count))
    return new("a.Net") + module_state([(text("w"), PLAIN)], children) + pickle.BUILD


def _empty_module() -> bytes:
    return new("a.Net") + module_state((), ()) + pickle.BUILD


def module_tower() -> bytes:
    """A module of two that are the same, of two that are the same ..."""
    tower = new("a.Net") + module_state([(text("w"), PLAIN)], ()) + pickle.BUILD + put(0)
    for level in range(100):
        children = ((text("a"), get(level)), (text("b"), get(level)))
        tower += new("a.Net") + module_state((), children) + pickle.BUILD + put(level + 1)
    return several(tower) + pickle.POP + get(100)


def around(value: bytes) -> bytes:
    """The state of an object that has it as an attribute."""
    return mapping((text("model"), value)) + pickle.BUILD


def _same(count: int) -> Iterator[tuple[bytes, bytes]]:
    return ((get(0), pickle.NONE) for _ in range(count))


def run_if_loaded(name: str, *arguments: bytes) -> bytes:
    """Would leave a file behind in the scratch folder, if anybody called it."""
    return mapping((text("w"), PLAIN), (text("x"), call(name, *arguments)))


def weights(*more: tuple[bytes, bytes]) -> bytes:
    """A state dict like the other checkpoint's, and more."""
    return mapping((text("w"), tensor([4, 3], [3, 1], count=12)), *more)


TWELVE = struct.pack("<12f", *range(12))

PICKLES: Group = {
    "code of the system": (lambda: pt(run_if_loaded("os.system", text("touch canary"))), UNSAFE),
    "code of posix": (lambda: pt(run_if_loaded("posix.system", text("touch canary"))), UNSAFE),
    "eval": (lambda: pt(run_if_loaded("builtins.eval", text("open('canary', 'w')"))), UNSAFE),
    "eval by its old name": (lambda: pt(run_if_loaded("__builtin__.eval", text("open('canary', 'w')"))), UNSAFE),
    "getattr": (lambda: pt(run_if_loaded("builtins.getattr", glob("os.path"), text("os"))), UNSAFE),
    "torch.load": (lambda: pt(run_if_loaded("torch.load", text("x"))), UNSAFE),
    "torch.hub": (lambda: pt(run_if_loaded("torch.hub.load", text("x"), text("y"))), UNSAFE),
    "a dotted name": (lambda: pt(mapping((text("w"), glob("torch.serialization.os.system")))), UNSAFE),
    "INST": (lambda: pt(pickle.MARK + text("touch canary") + pickle.INST + b"os\nsystem\n"), UNSAFE),
    "OBJ": (lambda: pt(pickle.MARK + glob("os.system") + text("touch canary") + pickle.OBJ), UNSAFE),
    "NEWOBJ_EX": (lambda: pt(glob("os.system") + several() + mapping() + pickle.NEWOBJ_EX), UNSAFE),
    "STACK_GLOBAL": (lambda: pt(text("os") + text("system") + pickle.STACK_GLOBAL), UNSAFE),
    "EXT1": (lambda: pt(pickle.EXT1 + b"\1"), CORRUPT),
    "PERSID": (lambda: pt(pickle.PERSID + b"storage\n"), CORRUPT),
    "code in an old file": (lambda: legacy(run_if_loaded("os.system", text("touch canary"))), UNSAFE),
    "code before the magic": (lambda: pickled(call("os.system", text("touch canary"))), UNSAFE),
    "a storage of another kind": (lambda: pt(several(text("module"), text("x")) + pickle.BINPERSID), CORRUPT),
    "a build of anything": (lambda: pt(glob("torch.Tensor") + mapping((text("x"), number(1))) + pickle.BUILD), CORRUPT),
    "a function of the system, never called": (lambda: pt(weights((text("x"), glob("os.system"))), TWELVE), UNSAFE),
    "code that is thrown away": (
        lambda: pt(call("os.system", text("touch canary")) + pickle.POP + weights(), TWELVE),
        UNSAFE,
    ),
    "code in the state of an object": (
        lambda: pt(
            weights((text("x"), new("my.Config") + mapping((text("y"), glob("builtins.exec"))) + pickle.BUILD)), TWELVE
        ),
        UNSAFE,
    ),
    "code by a number": (lambda: pt(weights((text("x"), pickle.EXT4 + b"\1\0\0\0")), TWELVE), None),
    "an object that reduces to a call of a call": (
        lambda: pt(
            weights((text("x"), call("functools.partial", glob("print"), text("x")) + several() + pickle.REDUCE)),
            TWELVE,
        ),
        None,
    ),
    "a class of the user's in place of the weights": (lambda: pt(new("my.Model")), CORRUPT),
    "getattr of a module": (
        lambda: pt(weights((text("x"), call("builtins.getattr", glob("my.Config"), text("system")))), TWELVE),
        None,
    ),
    "a class of a legacy file": (
        lambda: pt(
            several(text("module"), glob("my.Model"), text("x.py"), text("import os"))
            + pickle.BINPERSID
            + several()
            + pickle.REDUCE
        ),
        CORRUPT,
    ),
    "a plain pickle of protocol 5": (lambda: pickle.dumps({"w": [1.0]}, protocol=5), CORRUPT),
    "a plain pickle of protocol 0": (lambda: pickle.dumps({"w": [1.0]}, protocol=0), CORRUPT),
    "a buffer out of the file": (lambda: pt(weights((text("x"), pickle.NEXT_BUFFER)), TWELVE), CORRUPT),
    # Memory
    "an expanded tensor of 10^11 numbers": (lambda: pt(mapping((text("w"), tensor([10**11], [0])))), UNSUPPORTED),
    "an expanded tensor of 10^30 numbers": (
        lambda: pt(mapping((text("w"), tensor([10**10] * 3, [0, 0, 0])))),
        CORRUPT,
    ),
    "an expanded tensor that is copied": (
        lambda: legacy(mapping((text("w"), _on_cpu(_legacy_expanded())))),
        UNSUPPORTED,
    ),
    "a storage that is larger than the file": (
        lambda: pt(mapping((text("w"), tensor([10**9], [1], count=10**9)))),
        CORRUPT,
    ),
    "a storage of 2^62 numbers": (lambda: pt(mapping((text("w"), tensor([4], [1], count=1 << 62)))), CORRUPT),
    "a storage of -1 numbers": (lambda: pt(mapping((text("w"), tensor([4], [1], count=-1)))), CORRUPT),
    "an old storage that is larger than the file": (
        lambda: legacy(mapping((text("w"), _legacy_tensor([4], [1], 10**10)))),
        CORRUPT,
    ),
    "an old storage of less than it claims": (
        lambda: legacy(mapping((text("w"), _legacy_tensor([400], [1], 400)))),
        CORRUPT,
    ),
    "an old storage that claims more behind": (
        lambda: legacy(mapping((text("w"), _legacy_tensor([4], [1], 4))), {"0": (1 << 40, b"")}),
        CORRUPT,
    ),
    "a byte array of 10^11": (
        lambda: pt(weights((text("x"), call("builtins.bytearray", number(10**11)))), TWELVE),
        None,
    ),
    "a byte array of 10^9": (
        lambda: pt(weights((text("x"), call("builtins.bytearray", number(10**9)))), TWELVE),
        None,
    ),
    "a tensor by its size": (
        lambda: pt(weights((text("x"), call("torch.Tensor", number(10**6), number(10**6)))), TWELVE),
        UNSUPPORTED,
    ),
    "a new tensor by its size": (
        lambda: pt(mapping((text("w"), new("torch.FloatTensor", number(10**9))))),
        UNSUPPORTED,
    ),
    "a storage by its size": (
        lambda: pt(mapping((text("w"), call("torch.storage.UntypedStorage", number(10**10))))),
        CORRUPT,
    ),
    "a storage through a type": (
        lambda: pt(
            mapping(
                (text("w"), PLAIN),
                (
                    text("x"),
                    call(
                        "torch._tensor._rebuild_from_type_v2",
                        glob("builtins.bytearray"),
                        glob("torch.Tensor"),
                        several(number(10**11)),
                        mapping(),
                    ),
                ),
            )
        ),
        UNSUPPORTED,
    ),
    "an empty quantised tensor of any size": (lambda: pt(mapping((text("w"), _quantised(10**12)))), UNSUPPORTED),
    "a sparse tensor of any size": (lambda: pt(mapping((text("w"), _sparse(10**15)))), UNSUPPORTED),
    "a meta tensor of any size": (
        lambda: pt(
            mapping(
                (
                    text("w"),
                    call(
                        "torch._utils._rebuild_meta_tensor_no_storage",
                        glob("torch.float32"),
                        several(number(10**15)),
                        several(number(1)),
                        pickle.NEWFALSE,
                    ),
                )
            )
        ),
        UNSUPPORTED,
    ),
    "copies of a long list": (lambda: pt(weights((text("x"), _copies("collections.OrderedDict"))), TWELVE), CORRUPT),
    "sets of a long list": (lambda: pt(weights((text("x"), _copies("builtins.set"))), TWELVE), None),
    "sizes of a long tuple": (lambda: pt(weights((text("x"), _copies("torch.Size"))), TWELVE), None),
    "bytes of an archive": (
        lambda: pt(weights((text("x"), call("_codecs.encode", text("x" * 1000), text("punycode")))), TWELVE),
        None,
    ),
    "a text of 40 MB": (lambda: pt(weights((text("x"), text("x" * 40_000_000))), TWELVE), None),
    "bytes of 40 MB": (
        lambda: pt(weights((text("x"), pickle.BINBYTES8 + struct.pack("<Q", 40_000_000) + bytes(40_000_000))), TWELVE),
        None,
    ),
    "a line of 40 MB": (lambda: pt(weights((text("x"), pickle.UNICODE + b"x" * 40_000_000 + b"\n")), TWELVE), CORRUPT),
    "a frame of 2^60": (lambda: pt(pickle.FRAME + struct.pack("<Q", 1 << 60) + weights(), TWELVE), None),
    "wide texts": (lambda: pt(weights((text("x"), listed(*[text("\U0001f600" * 50)] * 600_000))), TWELVE), CORRUPT),
    "a million objects": (
        lambda: pt(
            weights((text("x"), glob("a.B") + put(0)), (text("y"), listed(*[get(0) + OBJECT] * 1_000_000))), TWELVE
        ),
        CORRUPT,
    ),
    "copies of a long tuple": (
        lambda: pt(weights((text("x"), _copies("collections.deque", several))), TWELVE),
        CORRUPT,
    ),
    "a memo of everything": (
        lambda: pt(weights((text("x"), listed(*[pickle.NONE + pickle.MEMOIZE] * 3_000_000))), TWELVE),
        None,
    ),
    "the same again and again": (
        lambda: pt(weights((text("x"), several(pickle.NONE, *[pickle.DUP] * 4_000_000))), TWELVE),
        None,
    ),
    # Time
    "objects in objects": (
        lambda: pt(weights((text("x"), glob("a.B") + put(0) + pickle.POP + nested_objects(300_000))), TWELVE),
        None,
    ),
    "states in states": (lambda: pt(weights((text("x"), nested_states(200_000))), TWELVE), None),
    "a tower of objects as a key": (
        lambda: pt(
            weights((text("x"), memo_tower()), (text("y"), mapping((call("a.B", get(LEVELS)), number(1))))), TWELVE
        ),
        None,
    ),
    "a tower of modules": (lambda: pt(module_tower()), CORRUPT),
    "a module in itself": (
        lambda: pt(new("a.Net") + put(0) + module_state(tensors=(), children=((text("x"), get(0)),)) + pickle.BUILD),
        CORRUPT,
    ),
    "many keys of one large module": (
        lambda: pt(mapping((text("m"), module_of(3_000) + put(0)), *_keys(3_000, get(0)))),
        MISMATCHED,
    ),
    "many objects around one large module": (
        lambda: pt(mapping((text("m"), module_of(3_000) + put(0)), *_keys(3_000, new("a.B") + around(get(0))))),
        MISMATCHED,
    ),
    "many averages of one large module": (
        lambda: pt(mapping((text("m"), module_of(3_000) + put(0)), *_keys(3_000, new("a.B") + around(get(0)), "ema_"))),
        CORRUPT,
    ),
    "a number of a million digits again and again": (
        lambda: pt(weights((text("x"), mapping((_long(1_000_000) + put(0), pickle.NONE), *_same(100_000)))), TWELVE),
        None,
    ),
    "digits of a million": (lambda: pt(weights((text("x"), pickle.LONG + b"9" * 1_000_000 + b"L\n")), TWELVE), CORRUPT),
    "digits of 5,000": (lambda: pt(weights((text("x"), pickle.INT + b"9" * 900 + b"\n")), TWELVE), None),
    "a key that takes for ever to hash": (
        lambda: pt(weights((text("x"), memo_tower()), (text("y"), mapping((get(LEVELS), number(1))))), TWELVE),
        None,
    ),
    "a name that takes for ever to hash": (
        lambda: pt(weights((text("x"), memo_tower()), (get(LEVELS), PLAIN)), TWELVE),
        CORRUPT,
    ),
    "a set of what takes for ever to hash": (
        lambda: pt(weights((text("x"), memo_tower()), (text("y"), call("builtins.set", listed(get(LEVELS))))), TWELVE),
        None,
    ),
    "a tower beside the weights": (lambda: pt(weights((text("x"), memo_tower())), TWELVE), None),
    "a million lists": (lambda: pt(weights((text("x"), listed(*[pickle.EMPTY_LIST] * 1_000_000))), TWELVE), None),
    "thirty million opcodes": (
        lambda: pt(weights((text("x"), several(pickle.NONE * 30_000_000))), TWELVE),
        CORRUPT,
    ),
    "thirty million opcodes, compressed": (
        lambda: _compressed(weights((text("x"), several(pickle.NONE * 30_000_000)))),
        CORRUPT,
    ),
    "twenty million open marks": (lambda: pt(pickle.MARK * 20_000_000), CORRUPT),
    "a gigabyte of opcodes, compressed": (lambda: _compressed_zeros(1 << 30), CORRUPT),
    "lists in lists": (lambda: pt(weights((text("x"), nested(100_000))), TWELVE), None),
    "tuples in tuples": (
        lambda: pt(weights((text("x"), pickle.EMPTY_TUPLE + pickle.TUPLE1 * 1_000_000)), TWELVE),
        None,
    ),
    "tuples in tuples as a key": (
        lambda: pt(mapping((pickle.EMPTY_TUPLE + pickle.TUPLE1 * 1_000_000, PLAIN))),
        CORRUPT,
    ),
    "a dict in itself": (
        lambda: pt(pickle.EMPTY_DICT + put(0) + pickle.MARK + text("model") + get(0) + pickle.SETITEMS),
        CORRUPT,
    ),
    "a list in itself": (
        lambda: pt(weights((text("x"), pickle.EMPTY_LIST + put(0) + get(0) + pickle.APPEND)), TWELVE),
        None,
    ),
    "a list in itself as a name": (
        lambda: pt(pickle.EMPTY_LIST + put(0) + several(get(0)) + put(1) + pickle.APPEND + mapping((get(1), PLAIN))),
        CORRUPT,
    ),
    "one long list under many keys": (
        lambda: pt(weights((text("x"), listed(*[pickle.NONE] * 100_000) + put(0)), *_keys(100_000, get(0))), TWELVE),
        None,
    ),
    "one long list in many lists": (
        lambda: pt(
            weights(
                (text("x"), listed(*[pickle.NONE] * 100_000) + put(0)), *_keys(10_000, listed(PLAIN, get(0)), "ema")
            ),
            TWELVE,
        ),
        UNSUPPORTED,
    ),
    "many averages of one long list": (
        lambda: pt(mapping((text("x"), listed(*[pickle.NONE] * 100_000) + put(0)), *_averages(10_000)), TWELVE),
        CORRUPT,
    ),
    "code below deep dicts": (
        lambda: pt((pickle.EMPTY_DICT + text("a")) * 100_000 + glob("os.system") + pickle.SETITEM * 100_000),
        UNSAFE,
    ),
    # Values
    "a number of a million digits": (lambda: pt(weights((text("x"), _long(1_000_000))), TWELVE), None),
    "a number of a million digits as a name": (lambda: pt(mapping((_long(1_000_000), PLAIN))), CORRUPT),
    "a name of a number": (lambda: pt(mapping((number(3), PLAIN))), MISMATCHED),
    "a name of 10 MB": (lambda: pt(mapping((text("w" * 10_000_000), PLAIN))), CORRUPT),
    "a name of half a pair": (lambda: pt(mapping((text("\ud800"), PLAIN))), CORRUPT),
    "a name that is a tensor": (lambda: pt(mapping((PLAIN, PLAIN))), CORRUPT),
    "a name that is a dict": (lambda: pt(mapping((mapping(), PLAIN))), CORRUPT),
    "an offset before the beginning": (lambda: pt(mapping((text("w"), tensor([4], [1], offset=-4)))), CORRUPT),
    "an offset beyond the end": (lambda: pt(mapping((text("w"), tensor([4], [1], offset=1)))), CORRUPT),
    "an offset of 2^70": (lambda: pt(mapping((text("w"), tensor([4], [1], offset=1 << 70)))), CORRUPT),
    "a stride of -1": (lambda: pt(mapping((text("w"), tensor([4], [-1])))), CORRUPT),
    "a stride of 2^62": (lambda: pt(mapping((text("w"), tensor([4], [1 << 62])))), CORRUPT),
    "a side of -1": (lambda: pt(mapping((text("w"), tensor([-4], [1])))), CORRUPT),
    "more strides than sides": (lambda: pt(mapping((text("w"), tensor([4], [1, 1])))), CORRUPT),
    "a thousand sides": (lambda: pt(mapping((text("w"), tensor([1] * 1000, [1] * 1000)))), CORRUPT),
    "sides that are texts": (
        lambda: pt(
            mapping((text("w"), call("torch._utils._rebuild_tensor_v2", storage(4), number(0), text("4"), text("1"))))
        ),
        CORRUPT,
    ),
    "a record that is missing": (lambda: pt(mapping((text("w"), tensor([4], [1], held=storage(4, "7"))))), CORRUPT),
    "a record of another folder": (
        lambda: pt(mapping((text("w"), tensor([4], [1], held=storage(4, "../data.pkl"))))),
        CORRUPT,
    ),
    "an empty pickle": (lambda: pt(b""), CORRUPT),
    "a stack that underflows": (lambda: pt(pickle.TUPLE3 + pickle.APPENDS + pickle.SETITEMS), CORRUPT),
    "a memo that is not there": (lambda: pt(get(1 << 31)), CORRUPT),
    "a string that is longer than the file": (lambda: pt(pickle.BINUNICODE + b"\xff\xff\xff\xff"), CORRUPT),
    "a string of 2^60": (lambda: pt(pickle.BINUNICODE8 + struct.pack("<Q", 1 << 60)), CORRUPT),
    "an integer of 2^31 bytes": (lambda: pt(pickle.LONG4 + struct.pack("<i", (1 << 31) - 1)), CORRUPT),
    "a memo of 2^32 places": (
        lambda: pt(weights((text("x"), pickle.NONE + put((1 << 32) - 1))), TWELVE),
        None,
    ),
    # Archives
    "a wrong checksum": (lambda: _wrong_checksum(), None),
    "an archive that is compressed": (lambda: _compressed(weights()), None),
    "an archive that is encrypted": (lambda: _flagged(1), CORRUPT),
    "an archive without a pickle": (lambda: archive({"archive/version": b"3"}), CORRUPT),
    "an archive with two pickles": (
        lambda: archive({"a/data.pkl": pickled(weights()), "b/data.pkl": pickled(weights()), "a/data/0": TWELVE}),
        CORRUPT,
    ),
    "an archive of 70,000 records": (lambda: archive({str(i): b"" for i in range(70_000)}, aligned=False), CORRUPT),
    "an archive cut in half": (lambda: pt(weights(), TWELVE)[:300], CORRUPT),
    "an archive without its directory": (lambda: pt(weights(), TWELVE)[:-22], CORRUPT),
    "an archive with lies of zip64": (lambda: _zip64_lies(), CORRUPT),
    "an archive whose records overlap": (lambda: _overlapping(), CORRUPT),
    "numbers of the other byte order": (lambda: pt(weights(), TWELVE, byteorder=b"big"), None),
    "a byte order that unpacks to 1 GB": (lambda: _lying("byteorder", 6), CORRUPT),
    "a pickle that unpacks to 1 GB": (lambda: _lying("data.pkl", 60), CORRUPT),
    "numbers that unpack to 1 GB": (lambda: _lying("data/0", 48), "identical-checkpoints"),
    "a byte order that unpacks from bzip2": (lambda: _lying("byteorder", 6, zipfile.ZIP_BZIP2), CORRUPT),
    "numbers that unpack from bzip2": (lambda: _lying("data/0", 48, zipfile.ZIP_BZIP2), CORRUPT),
    "an archive in LZMA": (lambda: _packed(zipfile.ZIP_LZMA), CORRUPT),
    "a table of contents that points before the file": (lambda: _before_the_file(), CORRUPT),
    "an unknown byte order": (lambda: pt(weights(), TWELVE, byteorder=b"middle"), CORRUPT),
    "a byte order of 1 GB": (lambda: _compressed(weights(), byteorder=b"little" + b"\0" * (1 << 30)), CORRUPT),
    "TorchScript": (lambda: pt(weights(), TWELVE, **{"code/x.py": b"", "constants.pkl": pickled(several())}), CORRUPT),
    "a tar": (lambda: b"\0" * 257 + b"ustar" + b"\0" * 300, CORRUPT),
    "noise": (lambda: np.random.default_rng(0).bytes(10_000), CORRUPT),
}


def _legacy_tensor(shape: list[int], stride: list[int], count: int) -> bytes:
    return tensor(shape, stride, held=legacy_storage(count))


def _legacy_expanded() -> bytes:
    return _legacy_tensor([10**11], [0], 4)


def _on_cpu(value: bytes) -> bytes:
    return call(
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        value,
        glob("torch.float64"),
        text("cpu"),
        pickle.NEWFALSE,
    )


def _quantised(count: int) -> bytes:
    scheme = several(glob("torch.per_tensor_affine"), pickle.BINFLOAT + struct.pack(">d", 1.0), number(0))
    return call(
        "torch._utils._rebuild_qtensor",
        storage(4, kind="QInt8Storage"),
        number(0),
        several(number(count)),
        several(number(0)),
        scheme,
        pickle.NEWFALSE,
        call("collections.OrderedDict"),
    )


def _sparse(count: int) -> bytes:
    places = tensor([1, 1], [1, 1], held=storage(2, kind="LongStorage"))
    layout = call("torch.serialization._get_layout", text("torch.sparse_coo"))
    return call(
        "torch._utils._rebuild_sparse_tensor",
        layout,
        several(places, tensor([1], [1]), several(number(count)), pickle.NEWFALSE),
    )


def _copies(name: str, made: Callable[..., bytes] = listed) -> bytes:
    """A list of 20,000, copied 20,000 times by a file of 300 KB."""
    item = several(number(1), number(2)) if "Dict" in name else number(1)
    calls = listed(*[get(1) + get(2) + pickle.REDUCE] * 20_000)
    return several(made(*[item] * 20_000) + put(0), glob(name) + put(1), several(get(0)) + put(2), calls)


def _keys(count: int, value: bytes, prefix: str = "k") -> Iterator[tuple[bytes, bytes]]:
    return ((text(f"{prefix}{index}"), value) for index in range(count))


def _averages(count: int) -> Iterator[tuple[bytes, bytes]]:
    for index in range(count):
        yield text(f"ema_{index}"), mapping((text("w"), PLAIN + put(1) if not index else get(1)), (text("x"), get(0)))


def _long(digits: int) -> bytes:
    encoded = b"\x7f" * (digits * 10 // 24)
    return pickle.LONG4 + struct.pack("<i", len(encoded)) + encoded


def _compressed(value: bytes, **more: bytes) -> bytes:
    records = {"data.pkl": pickled(value), "byteorder": b"little", "data/0": TWELVE, **more, "version": b"3\n"}
    return archive(
        {f"archive/{name}": content for name, content in records.items()}, zipfile.ZIP_DEFLATED, aligned=False
    )


@functools.cache
def _compressed_zeros(count: int) -> bytes:
    """`data.pkl` of so many zeros, which are opcodes of nothing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped, zipped.open("archive/data.pkl", "w") as member:
        member.write(pickle.PROTO + b"\x02")
        for _ in range(count >> 20):
            member.write((pickle.NONE + pickle.POP) * (1 << 19))
    return buffer.getvalue()


@functools.cache
def _long_zeros(method: int) -> bytes:
    """1 GB that are 1 MB, of 64 pieces that are the same; one piece in a format that has no such thing."""
    if method != zipfile.ZIP_DEFLATED:
        return bz2.compress(bytes(1 << 24))
    packer = zlib.compressobj(wbits=-15)
    return (packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)) * 64 + packer.flush()


def _packed(method: int, start: bytes = b"") -> bytes:
    records = {"data.pkl": pickled(weights()), "byteorder": b"little", "data/0": TWELVE, "version": b"3\n"}
    return start + archive({f"archive/{name}": each for name, each in records.items()}, method, aligned=False)


def _lying(name: str, claimed: int, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive one of whose records claims to be small, and is not."""
    records = {"data.pkl": pickled(weights()), "byteorder": b"little", "data/0": TWELVE, "version": b"3\n"}
    packed = _long_zeros(method)
    records[name] = packed
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for each, content in records.items():
            zipped.writestr(f"archive/{each}", content)
        info = zipped.getinfo(f"archive/{name}")
        # Written into the table of contents when the archive is closed.
        info.compress_type, info.file_size = method, claimed
        info.CRC = zlib.crc32(bytes(claimed))
    content = bytearray(buffer.getvalue())
    struct.pack_into("<H", content, info.header_offset + 8, method)
    return bytes(content)


def _before_the_file() -> bytes:
    """The end of the archive says that its table begins later than it does."""
    content = bytearray(_packed(zipfile.ZIP_DEFLATED))
    place = content.rindex(b"PK\x05\x06")
    (start,) = struct.unpack_from("<I", content, place + 16)
    struct.pack_into("<I", content, place + 16, start + 65_536)
    return bytes(content)


def _wrong_checksum() -> bytes:
    content = bytearray(pt(weights(), TWELVE))
    content[content.rindex(TWELVE) + 1] ^= 0xFF
    return bytes(content)


def _flagged(flag: int) -> bytes:
    content = bytearray(pt(weights(), TWELVE))
    for place in _central(bytes(content)):
        content[place + 8] |= flag
    return bytes(content)


def _central(content: bytes) -> Iterator[int]:
    """Where the entries of the archive's directory begin."""
    place = content.find(b"PK\x01\x02")
    while place >= 0:
        yield place
        place = content.find(b"PK\x01\x02", place + 1)


def _zip64_lies() -> bytes:
    content = bytearray(pt(weights(), TWELVE))
    for place in _central(bytes(content)):
        struct.pack_into("<II", content, place + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    return bytes(content)


def _overlapping() -> bytes:
    content = bytearray(pt(weights(), TWELVE))
    first = next(_central(bytes(content)))
    for place in _central(bytes(content)):
        content[place + 42 : place + 46] = content[first + 42 : first + 46]
    return bytes(content)


SHARD_1, SHARD_2 = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "checkpoint-2/model.safetensors.index.json"


def _indexed(content: Any) -> Files:
    return {**valid.shards(), INDEX: as_json(content)}


def named(*names: Any) -> dict[str, Any]:
    return {"weight_map": {str(number): name for number, name in enumerate(names)}}


INDICES: Group = {
    "good": (lambda: named(SHARD_1, SHARD_2), None),
    "one shard of two": (lambda: named(SHARD_1), MISMATCHED),
    "a shard with a name of 5,000 characters": (lambda: named("a" * 5_000), CORRUPT),
    "a shard that is not there": (lambda: named("gone.safetensors"), "too-few-checkpoints"),
    "an absolute name": (lambda: named("/etc/passwd"), CORRUPT),
    "a name of another folder": (lambda: named("../checkpoint-1/model.safetensors"), CORRUPT),
    "the folder above": (lambda: named(".."), CORRUPT),
    "an empty name": (lambda: named(""), CORRUPT),
    "a name with a zero byte": (lambda: named("a\0b"), CORRUPT),
    "a name of half a pair": (lambda: named("\ud800"), CORRUPT),
    "a name that is a number": (lambda: named(1), CORRUPT),
    "a name that is null": (lambda: named(None), CORRUPT),
    "a name that is a list": (lambda: named([SHARD_1]), CORRUPT),
    "names of several kinds": (lambda: named(SHARD_1, 1), CORRUPT),
    "the index itself": (lambda: named("model.safetensors.index.json"), CORRUPT),
    "no names": (lambda: named(), CORRUPT),
    "a map that is a list": (lambda: {"weight_map": [SHARD_1]}, CORRUPT),
    "a list": (lambda: [], CORRUPT),
    "a number": (lambda: 3, CORRUPT),
    "deep": (lambda: DEEP, CORRUPT),
    "a number of 5,000 digits": (lambda: b'{"metadata": ' + b"1" * 5_000 + b"}", CORRUPT),
    "not UTF-8": (lambda: b'{"\xff": 1}', CORRUPT),
    "empty": (lambda: b"", "too-few-checkpoints"),
    "200,000 entries": (lambda: named(*[SHARD_1] * 100_000, *[SHARD_2] * 100_000), None),
    "a million names": (lambda: named(*[f"{number}.safetensors" for number in range(1_000_000)]), CORRUPT),
    "20,000 names": (lambda: named(*[f"{number}.safetensors" for number in range(20_000)]), CORRUPT),
    "100 MB": (lambda: b'{"weight_map": {' + b" " * 100_000_000 + b"}}", CORRUPT),
}

PROCESSOR = "run/checkpoint-20/preprocessor_config.json"
TRAINER_STATE = "run/checkpoint-20/trainer_state.json"
HUGE = (10**8, 10**12, 10**30)


def _with(**changed: Any) -> Callable[[], dict[str, Any]]:
    return lambda: changed


CONFIGS: Group = {
    "good": (_with(), None),
    **{
        f"{name} {value:.0e}": (_with(**{name: value}), MODEL)
        for name in ("hidden_size", "num_hidden_layers", "intermediate_size", "image_size", "patch_size")
        for value in HUGE
    },
    **{f"num_channels {value:.0e}": (_with(num_channels=value), DATA) for value in HUGE},
    **{
        f"{name} {value!r:.40}": (_with(**{name: value}), MODEL)
        for name in ("hidden_size", "num_attention_heads", "num_hidden_layers", "image_size", "num_channels")
        for value in (0, -1, "8", 1.5, [8], {}, True)
    },
    "num_labels 1e8": (_with(num_labels=10**8, id2label=None, label2id=None), MODEL),
    "num_labels '10'": (_with(num_labels="10", id2label=None), MODEL),
    "num_labels of another model": (_with(num_labels=5, id2label=None), "unknown-classes"),
    "id2label of 100,000": (_with(id2label={str(i): str(i) for i in range(100_000)}), MODEL),
    "id2label keyed by names": (_with(id2label={"cat": 0}), MODEL),
    "id2label keyed by \u00b3": (_with(id2label={"\u00b3": "cat"}), MODEL),
    "id2label of dicts": (_with(id2label={"0": {}, "1": [], "2": None}), "unknown-classes"),
    "a width of another model": (_with(hidden_size=12), MODEL),
    "an act of no name": (_with(hidden_act="os.system"), MODEL),
    "a dropout of two": (_with(hidden_dropout_prob=2), MODEL),
    "eps that is a text": (_with(layer_norm_eps="x"), MODEL),
    "another model": (_with(model_type="bert"), MODEL),
    "no such model": (_with(model_type="nothing"), MODEL),
    "a model type of a million letters": (_with(model_type="v" * 1_000_000), MODEL),
    "a model type that is a list": (_with(model_type=["vit"]), MODEL),
    "architectures of numbers": (_with(architectures=[1, None]), "unknown-task"),
    "architectures of a million": (_with(architectures=["x"] * 1_000_000), "unknown-task"),
    "architectures of 100,000 letters": (_with(architectures=["x" * 100_000]), "unknown-task"),
    "code": (_with(auto_map={"AutoConfig": "evil.Config"}, trust_remote_code=True), None),
    "quantised": (_with(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}), None),
    "a dtype of no name": (_with(dtype="float31"), MODEL),
    "a dtype that is a list": (_with(dtype=[1]), MODEL),
    "attention of no name": (_with(attn_implementation="evil/kernel"), None),
    "attention of a hub": (_with(_attn_implementation="evil/kernel"), None),
    "a name that transformers uses itself": (
        _with(_commit_hash=[1], name_or_path={"x": 1}, transformers_version=3),
        None,
    ),
    "methods in the place of values": (_with(to_dict=1, get_text_config=2), MODEL),
    "a list": (lambda: [], CORRUPT),
    "deep": (lambda: DEEP, CORRUPT),
    "NaN": (lambda: b'{"model_type": NaN, "architectures": ["ViTForImageClassification"]}', MODEL),
    "a number of 5,000 digits": (lambda: b'{"hidden_size": ' + b"1" * 5_000 + b"}", CORRUPT),
    "not UTF-8": (lambda: b'{"\xff": 1}', CORRUPT),
    "100 MB": (lambda: b"{" + b" " * 100_000_000 + b"}", CORRUPT),
    "ten million numbers": (lambda: b'{"x": [' + b"1," * 10_000_000 + b"1]}", CORRUPT),
}

PROCESSORS: Group = {
    "good": (_with(), None),
    "a size of a billion": (_with(size={"height": 10**9, "width": 10**9}), MODEL),
    "a size of 0": (_with(size={"height": 0, "width": 0}), MODEL),
    "a size that is a text": (_with(size="x"), MODEL),
    "a shortest edge of a billion": (_with(size={"shortest_edge": 10**9}), MODEL),
    "a longest edge of a billion": (_with(size={"longest_edge": 10**9, "shortest_edge": 1}), MODEL),
    "a crop of a billion": (_with(do_center_crop=True, crop_size={"height": 10**9, "width": 10**9}), MODEL),
    "a padding of a billion": (_with(do_pad=True, pad_size={"height": 10**9, "width": 10**9}), MODEL),
    "std 0": (_with(image_std=[0.0]), MODEL),
    "a mean of a million numbers": (_with(image_mean=[0.5] * 1_000_000, image_std=[0.5] * 1_000_000), MODEL),
    "a rescale of 10^300": (_with(rescale_factor=1e300), MODEL),
    "a resample of 99": (_with(resample=99), MODEL),
    "a type of no name": (_with(image_processor_type="os.system"), MODEL),
    "a type that is a list": (_with(image_processor_type=["ViTImageProcessor"]), MODEL),
    "code": (_with(auto_map={"AutoImageProcessor": "evil.Processor"}), None),
    "a device": (_with(device="cuda"), None),
    "a tensor type": (_with(return_tensors="tf"), None),
    "a list": (lambda: [], MODEL),
    "deep": (lambda: DEEP, MODEL),
    "a number of 5,000 digits": (lambda: b'{"size": ' + b"1" * 5_000 + b"}", MODEL),
    "100 MB": (lambda: b"{" + b" " * 70_000_000 + b"}", None),
}

TRAINER_STATES: Group = {
    "a step that is a text": (_with(global_step="x"), None),
    "a step of 10^400": (_with(global_step=10**400), None),
    "a step of -1": (_with(global_step=-1), None),
    "a step of 5,000 digits": (lambda: b'{"global_step": ' + b"1" * 5_000 + b"}", None),
    "a list": (lambda: [], None),
    "deep": (lambda: DEEP, None),
    "not UTF-8": (lambda: b"\xff", None),
    "100 MB": (lambda: b"{" + b" " * 100_000_000 + b"}", None),
}

IMAGES_FIRST = {"labels": array((4,), struct.pack("<4q", 0, 1, 2, 0), "<i8")}


def images(content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A set whose images are these."""
    return npz({"images": content, **IMAGES_FIRST}, method)


def image_header(shape: str, dtype: str = "'|u1'", order: str = "False") -> str:
    return f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


FOUR = bytes(4 * 64)

ARRAYS: Group = {
    "good": (lambda: images(array((4, 8, 8), FOUR)), None),
    "in the order of Fortran": (lambda: images(npy(image_header("(4, 8, 8)", order="True")) + FOUR), None),
    "8 GB of zeros": (lambda: _bomb(), DATA),
    "a shape of 10^12": (lambda: images(npy(image_header("(1000000000000,)")) + FOUR), DATA),
    "a shape that overflows": (lambda: images(npy(image_header(f"({1 << 40}, {1 << 40})")) + FOUR), DATA),
    "a negative shape": (lambda: images(npy(image_header("(-4, -8, 8)")) + FOUR), DATA),
    "a shape of floats": (lambda: images(npy(image_header("(4.0, 8, 8)")) + FOUR), DATA),
    "a shape of true": (lambda: images(npy(image_header("(True, 4, 64)")) + FOUR), DATA),
    "a shape that is a number": (lambda: images(npy(image_header("256")) + FOUR), DATA),
    "no dimension": (lambda: images(array((), b"1")), DATA),
    "40 dimensions": (lambda: images(npy(image_header(str((1,) * 38 + (4, 64)))) + FOUR), DATA),
    "100 dimensions": (lambda: images(npy(image_header(str((1,) * 98 + (4, 64)))) + FOUR), DATA),
    "0 examples": (lambda: npz({"images": array((0, 8, 8), b""), "labels": array((0,), b"", "<i8")}), "empty-data"),
    "0 x 0 images": (lambda: images(array((4, 0, 0), b"")), DATA),
    "4 x 0 x 10^18 images": (lambda: images(npy(image_header(f"(4, 0, {10**18})"))), DATA),
    "objects": (lambda: images(npy(image_header("(4,)", "'|O'")) + pickled(number(1))), DATA),
    "records": (lambda: images(npy(image_header("(4,)", "[('a', '|u1'), ('b', '|O')]")) + FOUR), DATA),
    "texts": (lambda: images(npy(image_header("(4,)", "'<U16'")) + FOUR), DATA),
    "dates": (lambda: images(npy(image_header("(4, 8)", "'<M8[s]'")) + FOUR), DATA),
    "bytes of 2^31": (lambda: images(npy(image_header("(4,)", "'|S2147483647'")) + FOUR), DATA),
    "nothing, many times": (lambda: images(npy(image_header("(1000000000000, 8, 8)", "'|V0'"))), DATA),
    "texts of nothing": (lambda: images(npy(image_header("(4, 8, 8)", "'<U0'"))), DATA),
    "the other byte order": (lambda: images(array((4, 8, 4), FOUR, ">u2")), DATA),
    "floats of the other byte order": (lambda: images(array((4, 8, 2), FOUR, ">f4")), DATA),
    "float128": (lambda: images(array((4, 2, 2), FOUR, "<f16")), DATA),
    "complex": (lambda: images(array((4, 2, 4), FOUR, "<c8")), DATA),
    "booleans": (lambda: images(array((4, 8, 8), FOUR, "|b1")), DATA),
    "booleans of 255": (lambda: images(array((4, 8, 8), b"\xff" * 256, "|b1")), DATA),
    "a version of 9": (lambda: images(npy(image_header("(4, 8, 8)"), version=(9, 9)) + FOUR), DATA),
    "a header of 4 GB": (lambda: images(b"\x93NUMPY\2\0\xff\xff\xff\xff" + FOUR), DATA),
    "a header of code": (lambda: images(npy("__import__('os').system('touch canary')\n") + FOUR), DATA),
    "a header in brackets": (lambda: images(npy("(" * 60_000) + FOUR), DATA),
    "a header of minuses": (lambda: images(npy("-" * 60_000 + "1") + FOUR), DATA),
    "a header of 5,000 digits": (lambda: images(npy(image_header(f"({'1' * 5000},)")) + FOUR), DATA),
    "a header of 60,000 brackets within": (lambda: images(npy(image_header("(" * 30_000 + ")" * 30_000)) + FOUR), DATA),
    "keys that are wrong": (lambda: images(npy("{'descr': '|u1'}\n") + FOUR), DATA),
    "a type of deep records": (
        lambda: images(npy(image_header("(4,)", "[('a'," * 500 + "'|u1'" + ")]" * 500)) + FOUR),
        DATA,
    ),
    "labels of floats": (
        lambda: npz({"images": array((4, 8, 8), FOUR), "labels": array((4,), bytes(16), "<f4")}),
        DATA,
    ),
    "labels of texts": (lambda: npz({"images": array((4, 8, 8), FOUR), "labels": array((4,), b"0123", "|S1")}), DATA),
    "labels of objects": (
        lambda: npz(
            {"images": array((4, 8, 8), FOUR), "labels": npy(image_header("(4,)", "'|O'")) + pickled(number(1))}
        ),
        DATA,
    ),
    "labels of no dimension": (
        lambda: npz({"images": array((4, 8, 8), FOUR), "labels": array((), bytes(8), "<i8")}),
        DATA,
    ),
    "labels of two dimensions": (
        lambda: npz({"images": array((4, 8, 8), FOUR), "labels": array((4, 1), bytes(32), "<i8")}),
        DATA,
    ),
    "labels of uint64": (
        lambda: npz({"images": array((4, 8, 8), FOUR), "labels": array((4,), b"\xff" * 32, "<u8")}),
        "unknown-classes",
    ),
    "labels below 0": (
        lambda: npz({"images": array((4, 8, 8), FOUR), "labels": array((4,), b"\xff" * 32, "<i8")}),
        "unknown-classes",
    ),
    "more labels than images": (
        lambda: npz({"images": array((4, 8, 8), FOUR), "labels": array((5,), bytes(40), "<i8")}),
        DATA,
    ),
    "no labels": (lambda: npz({"images": array((4, 8, 8), FOUR)}), DATA),
    "names of many letters": (lambda: npz({"i" * 60_000: b""}), DATA),
    "100,000 members": (lambda: npz({str(i): b"" for i in range(100_000)}), DATA),
    "two of a name": (lambda: _two_of_a_name(), None),
    "not an archive": (lambda: b"PK\x03\x04" + b"\0" * 1000, DATA),
    "empty": (lambda: b"", DATA),
    "a pickle": (lambda: pickled(call("os.system", text("touch canary"))), DATA),
    "encrypted": (lambda: _encrypted_npz(), DATA),
    "labels that unpack to 1 GB": (lambda: _lying_labels(zipfile.ZIP_DEFLATED), DATA),
    "labels that unpack from bzip2": (lambda: _lying_labels(zipfile.ZIP_BZIP2), DATA),
    "wrong checksums": (lambda: _wrong_npz(), DATA),
    "lzma": (lambda: images(array((4, 8, 8), FOUR), zipfile.ZIP_LZMA), DATA),
    "bzip2": (lambda: images(array((4, 8, 8), FOUR), zipfile.ZIP_BZIP2), DATA),
}


@functools.cache
def _bomb() -> bytes:
    """8 GB that are 8 MB."""
    buffer = io.BytesIO()
    side = 1 << 14
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in IMAGES_FIRST.items():
            zipped.writestr(f"{name}.npy", content)
        with zipped.open("images.npy", "w", force_zip64=True) as member:
            member.write(npy(image_header(f"(4, {side}, {side * 8})")))
            for _ in range(4 * side * side * 8 >> 24):
                member.write(bytes(1 << 24))
    return buffer.getvalue()


def _lying_labels(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("images.npy", array((4, 8, 8), FOUR))
        zipped.writestr("labels.npy", _long_zeros(method))
        info = zipped.getinfo("labels.npy")
        info.compress_type, info.file_size = method, 160
    content = bytearray(buffer.getvalue())
    struct.pack_into("<H", content, info.header_offset + 8, method)
    return bytes(content)


def _two_of_a_name() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("images.npy", array((4, 8, 8), FOUR))
        zipped.writestr("images", array((4, 8, 8), FOUR))
        zipped.writestr("labels.npy", IMAGES_FIRST["labels"])
    return buffer.getvalue()


def _encrypted_npz() -> bytes:
    content = bytearray(images(array((4, 8, 8), FOUR)))
    for place in _central(bytes(content)):
        content[place + 8] |= 1
    return bytes(content)


def _wrong_npz() -> bytes:
    content = bytearray(images(array((4, 8, 8), FOUR)))
    for place in _central(bytes(content)):
        content[place + 16] ^= 0xFF
    return bytes(content)


TENSOR_SETS: Group = {
    "good": (lambda: _tensors(torch.zeros(4, 8, 8, dtype=torch.uint8)), None),
    "no dimension": (lambda: _tensors(torch.zeros((), dtype=torch.uint8)), DATA),
    "0 x 0 images": (lambda: _tensors(torch.zeros(4, 0, 0, dtype=torch.uint8)), DATA),
    "six dimensions": (lambda: _tensors(torch.zeros(4, 1, 1, 1, 8, 8, dtype=torch.uint8)), DATA),
    "float8": (lambda: _tensors(torch.zeros(4, 8, 8).to(torch.float8_e4m3fn)), DATA),
    "bfloat16": (lambda: _tensors(torch.zeros(4, 8, 8, dtype=torch.bfloat16)), None),
    "complex": (lambda: _tensors(torch.zeros(4, 8, 8, dtype=torch.complex64)), DATA),
    "infinite": (lambda: _tensors(torch.full((4, 8, 8), math.inf)), DATA),
    "images of 1 x 10^6": (lambda: _tensors(torch.zeros(4, 1, 1_000_000, dtype=torch.uint8)), None),
    "labels that are complex": (lambda: _tensors(labels=torch.zeros(4, dtype=torch.complex64)), DATA),
    "labels that are booleans": (lambda: _tensors(labels=torch.zeros(4, dtype=torch.bool)), DATA),
    "labels of uint64": (lambda: _tensors(labels=torch.full((4,), 2**64 - 1, dtype=torch.uint64)), "unknown-classes"),
    "a million classes": (lambda: _tensors(labels=torch.tensor([0, 1, 2, 10**6])), "unknown-classes"),
    "a truncated file": (lambda: _tensors()[:-1], DATA),
    "a pickle": (lambda: pt(PLAIN), DATA),
}


def _tensors(images: Any = None, labels: Any = None) -> bytes:
    return save(
        {
            "images": torch.zeros(4, 8, 8, dtype=torch.uint8) if images is None else images,
            "labels": torch.tensor([0, 1, 2, 0]) if labels is None else labels,
        }
    )


PNGS: Group = {
    "good": (lambda: png(8, 8), None),
    "1 x 1": (lambda: png(1, 1), None),
    "0 x 0": (lambda: png(0, 0), DATA),
    "0 x 8": (lambda: png(0, 8), DATA),
    "2^31 x 2^31": (lambda: png(1 << 31, 1 << 31, pixels=b""), DATA),
    "60,000 x 60,000 of nothing": (lambda: png(60_000, 60_000, pixels=zlib.compress(bytes(60_001) * 64)), DATA),
    "8,000 x 8,000 of zeros": (lambda: png(8_000, 8_000, pixels=zlib.compress(bytes(8_001 * 8_000))), None),
    "8,000 x 8,000 of 16 bits": (
        lambda: png(8_000, 8_000, pixels=zlib.compress(bytes(16_001 * 8_000)), bits=16),
        None,
    ),
    "8,000 x 8,000 cut": (lambda: png(8_000, 8_000, pixels=zlib.compress(bytes(8_001))), None),
    "64,000,000 x 1": (lambda: png(64_000_000, 1, pixels=zlib.compress(bytes(64_000_001))), DATA),
    "cut": (lambda: png(8, 8)[:60], None),
    "a zTXt bomb": (lambda: png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(64 << 20)))), DATA),
    "a zTXt bomb at the end": (lambda: png(8, 8, last=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(64 << 20)))), DATA),
    "an iTXt bomb": (lambda: png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(64 << 20)))), DATA),
    "an iCCP bomb": (lambda: png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(64 << 20)))), DATA),
    "three hundred zTXt chunks": (
        lambda: png(8, 8, *[chunk(b"zTXt", b"a%d\0\0" % i + zlib.compress(bytes(900_000))) for i in range(300)]),
        DATA,
    ),
    "100,000 small chunks": (lambda: png(8, 8, chunk(b"tEXt", b"a\0b") * 100_000), None),
    "a chunk of 4 GB": (lambda: png(8, 8)[:33] + b"\xff\xff\xff\xffIDAT" + b"\0" * 10, DATA),
    "EXIF of noise": (lambda: png(8, 8, chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 500)), None),
    "an animation": (lambda: _animation(), None),
    "an animation of 2^31 frames": (
        lambda: png(8, 8, chunk(b"acTL", struct.pack(">II", (1 << 31) - 1, 0))),
        None,
    ),
    "a JPEG by another name": (lambda: valid.image("JPEG"), None),
    "a GIF by another name": (lambda: valid.image("GIF"), DATA),
    "a TIFF by another name": (lambda: valid.image("TIFF"), DATA),
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", DATA),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", DATA),
    "empty": (lambda: b"", DATA),
    "a BMP of 2^31 pixels": (
        lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 1 << 30, 2, 1, 8, 0, 0, 0, 0, 0, 0),
        DATA,
    ),
    "a BMP of RLE": (lambda: _rle_bmp(), None),
    "a JPEG of 65,000 x 65,000": (lambda: _jpeg_of(65_000, 65_000), DATA),
    "a progressive JPEG of many scans": (lambda: _jpeg_scans(), None),
    "a WEBP animation": (lambda: _webp_animation(), None),
}


def _animation() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(each) for each in valid.pixels()]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _webp_animation() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (500, 500), (number, 0, 0)) for number in range(30)]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _rle_bmp() -> bytes:
    head = struct.pack("<IHHIIiiHHIIiiII", 2000, 0, 0, 1078, 40, 8_000, 8_000, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + head + bytes(1024) + b"\0\2\xff\xff" * 200


def _jpeg_of(width: int, height: int) -> bytes:
    content = bytearray(valid.image("JPEG"))
    place = content.index(b"\xff\xc0")
    struct.pack_into(">HH", content, place + 5, height, width)
    return bytes(content)


def _jpeg_scans() -> bytes:
    """The last scan of a progressive image, many times over."""
    buffer = io.BytesIO()
    Image.new("L", (2_000, 2_000)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    start = content.rindex(b"\xff\xda")
    return content[:-2] + content[start:-2] * 300 + content[-2:]


def _candidate(**changed: Any) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        saved = json.loads(valid.recipe()["result/coefficients.json"])
        return {"candidates": {"uniform": {**saved["candidates"]["uniform"], **changed}}}

    return make


RECIPES: Group = {
    "good": (_with(), None),
    "a list": (lambda: [], CORRUPT),
    "deep": (lambda: DEEP, CORRUPT),
    "not UTF-8": (lambda: b'{"\xff": 1}', CORRUPT),
    "a number of 5,000 digits": (lambda: b'{"winner": ' + b"1" * 5_000 + b"}", CORRUPT),
    "a winner that is a list": (_with(winner=[]), "unknown-method"),
    "a winner of no name": (_with(winner="nobody"), "unknown-method"),
    "candidates that are a list": (_with(candidates=["uniform"]), CORRUPT),
    "a candidate that is a list": (_with(candidates={"uniform": []}), CORRUPT),
    "no checkpoints": (_candidate(checkpoints=[]), CORRUPT),
    "checkpoints that are numbers": (_candidate(checkpoints=[1, 2]), CORRUPT),
    "a checkpoint elsewhere": (_candidate(checkpoints=["../x", "/etc/passwd"]), CORRUPT),
    "a checkpoint of half a pair": (_candidate(checkpoints=["\ud800", "step-2.safetensors"]), CORRUPT),
    "alpha of texts": (_candidate(alpha=[["a"], ["b"]]), CORRUPT),
    "alpha of another shape": (_candidate(alpha=[[0.5, 0.5]]), CORRUPT),
    "alpha that is ragged": (_candidate(alpha=[[0.5], []]), CORRUPT),
    "alpha of NaN": (_candidate(alpha=[[math.nan], [0.5]]), CORRUPT),
    "alpha of infinity": (_candidate(alpha=[[math.inf], [0.5]]), CORRUPT),
    "alpha of 10^400": (_candidate(alpha=[[10**400], [0.5]]), CORRUPT),
    "a group of no number": (_candidate(group_of={"w": 7, "b": 0}), CORRUPT),
    "a group below 0": (_candidate(group_of={"w": -1, "b": 0}), CORRUPT),
    "a group that is a text": (_candidate(group_of={"w": "0", "b": 0}), CORRUPT),
    "a tensor without a group": (_candidate(group_of={"w": 0}), None),
    "groups of a list": (_candidate(group_of=[0, 0]), CORRUPT),
    "random signs without a seed": (_candidate(random={"weights": []}), CORRUPT),
    "a seed that is a text": (_candidate(random={"seed": "x", "weights": [[[1.0]]]}), CORRUPT),
    "statistics that are not there": (_candidate(statistics=["w"]), "unreadable-input"),
    "statistics that are a number": (_candidate(statistics=3), CORRUPT),
    "a type of no name": (_with(output_dtypes={"w": "os", "b": "float32", "n": "int64"}), CORRUPT),
    "a type that is a function": (_with(output_dtypes={"w": "load", "b": "float32", "n": "int64"}), CORRUPT),
    "a type that is a list": (_with(output_dtypes={"w": [], "b": "float32", "n": "int64"}), CORRUPT),
    "a type that is qint8": (_with(output_dtypes={"w": "qint8", "b": "float32", "n": "int64"}), CORRUPT),
    "types of a list": (_with(output_dtypes=["w"]), CORRUPT),
    "a tensor that is not there": (_with(output_dtypes={"x": "float32"}), CORRUPT),
    "no tensors": (_with(output_dtypes={}), CORRUPT),
    "no digests": (_with(sha256={}), CORRUPT),
    "digests of a list": (_with(sha256=[]), CORRUPT),
    "digests of numbers": (_with(sha256={"step-1.safetensors": 1, "step-2.safetensors": 1}), CORRUPT),
    "200 MB": (lambda: b"{" + b" " * 200_000_000 + b"}", CORRUPT),
}

STATES: Group = {
    "good": (lambda: valid.resume_state()["job/evaluations.pt"], None),
    "empty": (lambda: b"", None),
    "cut": (lambda: valid.resume_state()["job/evaluations.pt"][:100], None),
    "noise": (lambda: np.random.default_rng(0).bytes(1_000), None),
    "a pickle with code": (lambda: bytes(32) + pickled(call("os.system", text("touch canary"))), None),
}

FOLDERS: dict[str, tuple[str, Callable[[], Files], str | None]] = {
    "nothing but empty files": ("combine", lambda: {"step-1.pt": b"", "step-2.safetensors": b""}, "no-checkpoints"),
    "a class folder named \u00b3": (
        "data",
        lambda: {**valid.run(), **{f"val/{name}/0.png": png(8, 8) for name in ("0", "1", "\u00b3")}},
        "unknown-classes",
    ),
    "a class folder of 5,000 digits' worth": (
        "data",
        lambda: {**valid.run(), **{f"val/{name}/0.png": png(8, 8) for name in ("0", "1", "9" * 200)}},
        "unknown-classes",
    ),
    "a model of another width than its config": (
        "job",
        lambda: {**valid.job(), **{f"run/checkpoint-{step}/model.safetensors": _wide(step) for step in (10, 20)}},
        MODEL,
    ),
    "modules.json of names elsewhere": (
        "combine",
        lambda: {**valid.plain(), "modules.json": as_json([{"path": "../.."}, {"path": "\0"}, {"path": "a" * 5_000}])},
        None,
    ),
    "modules.json that is deep": ("combine", lambda: {**valid.plain(), "modules.json": DEEP}, None),
    "modules.json of 5,000 digits": ("combine", lambda: {**valid.plain(), "modules.json": b"1" * 5_000}, None),
    "a name of 200 digits": (
        "combine",
        lambda: {**valid.plain(), f"step-{'9' * 200}.safetensors": valid.checkpoint()},
        None,
    ),
    "names with steps of 10^300": (
        "combine",
        lambda: {"step-1e300.safetensors": valid.checkpoint(), "step-1e999.safetensors": save(valid.state(2))},
        None,
    ),
    "300 side files": (
        "combine",
        lambda: {**valid.plain(), **{f"vocab-{i}.txt": b"x" for i in range(300)}},
        None,
    ),
}


def _wide(step: int) -> bytes:
    from safetensors.torch import load

    weights = load(valid.run()[f"run/checkpoint-{step}/model.safetensors"])
    return save({name: torch.cat([each, each], dim=-1) if each.ndim else each for name, each in weights.items()})
