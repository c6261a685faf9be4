"""Image sets: three layouts, one meaning; and every set that is not one is refused with its reason."""

from __future__ import annotations

import io
import os
import re
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ladle_engine import DataError, TaskError
from ladle_engine.tasks.images.data_sets import ArrayImages, DecodedImages, ImageShape, open_images
from ladle_engine.tasks.images.preprocessing import PlainPreprocessing

SHAPE = ImageShape(channels=3, num_classes=2, class_ids=None)
GREY = ImageShape(channels=1, num_classes=2, class_ids=None)


def pixels(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 5, 6, 3), dtype=np.uint8)


def image_folder(path: Path, images: np.ndarray, labels: list[int], names: Mapping[int, str]) -> Path:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = path / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    return path


def opened(path: Path, shape: ImageShape = SHAPE, size: tuple[int, int] | None = None) -> dict[str, Tensor]:
    data = open_images(path, shape, PlainPreprocessing(size=size))
    return dict(data.batch(torch.arange(len(data))))


def refused(code: str, path: Path, shape: ImageShape = SHAPE) -> str:
    with pytest.raises(DataError) as caught:
        opened(path, shape)
    assert caught.value.code == code, caught.value
    return str(caught.value)


def test_a_folder_an_npz_and_a_safetensors_file_of_the_same_images_are_the_same(tmp_path: Path) -> None:
    images, labels = pixels(), [0, 0, 1, 1]
    folder = opened(image_folder(tmp_path / "folder", images, labels, {0: "ant", 1: "bee"}))
    np.savez(tmp_path / "set.npz", x=images, y=np.array(labels, dtype=np.uint8))
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    save_file({"images": channels_first, "labels": torch.tensor(labels)}, tmp_path / "set.safetensors")
    for other in (opened(tmp_path / "set.npz"), opened(tmp_path / "set.safetensors")):
        assert torch.equal(other["labels"], folder["labels"])
        assert torch.equal(other["pixel_values"], folder["pixel_values"])
    assert folder["pixel_values"].dtype == torch.float32
    assert folder["pixel_values"].max() <= 1


def test_floating_images_are_taken_as_they_are_and_grey_ones_need_no_channel(tmp_path: Path) -> None:
    images = np.linspace(-1, 2, 2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4)
    np.savez(tmp_path / "set.npz", images=images, labels=np.array([0, 1]))
    assert torch.equal(opened(tmp_path / "set.npz", GREY)["pixel_values"], torch.from_numpy(images)[:, None])


def test_class_folders_go_by_the_configs_names_by_number_or_by_alphabet(tmp_path: Path) -> None:
    images, labels = pixels(2), [0, 1]
    named = ImageShape(channels=3, num_classes=2, class_ids={"zebra": 0, "ant": 1})
    placeholder = ImageShape(channels=3, num_classes=2, class_ids={"LABEL_0": 0, "LABEL_1": 1})
    by_name = image_folder(tmp_path / "named", images, labels, {0: "zebra", 1: "ant"})
    assert opened(by_name, named)["labels"].tolist() == [1, 0], "files come in alphabetical order of their folders"
    assert opened(by_name, placeholder)["labels"].tolist() == [0, 1]
    by_number = image_folder(tmp_path / "numbered", images[:1], [0], {0: "1"})
    assert opened(by_number)["labels"].tolist() == [1], "a class without images is no reason to shift the others"


def test_images_of_other_sizes_and_modes_are_brought_to_one(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for name, mode, size in (("a", "RGBA", (9, 4)), ("b", "L", (5, 5))):
        (folder / name).mkdir(parents=True)
        Image.new(mode, size).save(folder / name / "one.png")
    assert opened(folder, size=(7, 8))["pixel_values"].shape == (2, 3, 7, 8)


def test_files_beside_the_images_are_left_alone(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "set", pixels(2), [0, 1], {0: "a", 1: "b"})
    (folder / "a" / "notes.txt").write_text("x")
    (folder / ".cache").mkdir()
    (folder / "labels.csv").write_text("x")
    assert len(opened(folder)["labels"]) == 2


def npz(tmp_path: Path, **arrays: np.ndarray) -> Path:
    np.savez(tmp_path / "set.npz", **arrays)
    return tmp_path / "set.npz"


def test_sets_of_another_task_are_refused(tmp_path: Path) -> None:
    good = {"images": pixels(), "labels": np.array([0, 0, 1, 1])}
    tokens = {"input_ids": np.zeros((4, 9), dtype=np.int64), "labels": np.zeros((4, 9), dtype=np.int64)}
    assert "holds `input_ids`, `labels`" in refused("invalid-data", npz(tmp_path, **tokens))
    assert "holds `images`" in refused("invalid-data", npz(tmp_path, images=good["images"]))
    grey = good | {"images": good["images"][..., 0]}
    assert "(4, 5, 6). Is this the set of another task?" in refused("invalid-data", npz(tmp_path, **grey))
    flat = good | {"images": good["images"].reshape(4, -1)}
    assert "(4, 90)" in refused("invalid-data", npz(tmp_path, **flat))
    words = good | {"images": good["images"].astype(np.int64)}
    assert "torch.int64" in refused("invalid-data", npz(tmp_path, **words))
    soft = good | {"labels": np.ones((4, 2), dtype=np.float32)}
    assert "torch.float32 of shape (4, 2)" in refused("invalid-data", npz(tmp_path, **soft))
    fewer = good | {"labels": good["labels"][:3]}
    assert "4 whole numbers" in refused("invalid-data", npz(tmp_path, **fewer))


def test_unknown_classes_are_listed(tmp_path: Path) -> None:
    path = npz(tmp_path, images=pixels(), labels=np.array([0, 7, -1, 1]))
    assert "from 0 to 1, the model's classes, but `set.npz` has -1, 7" in refused("unknown-classes", path)
    three = image_folder(tmp_path / "three", pixels(3), [0, 1, 2], {0: "a", 1: "b", 2: "c"})
    assert "has 3: a, b, c" in refused("unknown-classes", three)
    named = ImageShape(channels=3, num_classes=2, class_ids={"cat": 0, "dog": 1})
    assert "has `a`, `b`, `c`" in refused("unknown-classes", three, named)


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    empty = npz(tmp_path, images=np.zeros((0, 5, 6, 3), dtype=np.uint8), labels=np.zeros(0, dtype=np.int64))
    assert "holds none" in refused("empty-data", empty)
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "holds 0 sub-folders" in refused("empty-data", folder)
    (folder / "0").mkdir()
    assert "no image in them" in refused("empty-data", folder)


def test_images_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    images = np.zeros((2, 5, 6, 3), dtype=np.float32)
    images[1, 2, 2, 0] = np.nan
    assert "NaN" in refused("invalid-data", npz(tmp_path, images=images, labels=np.array([0, 1])))


def test_files_that_are_broken_or_of_another_kind_are_named(tmp_path: Path) -> None:
    assert "there is none at" in refused("invalid-data", tmp_path / "absent")
    (tmp_path / "set.xyz").write_text("a,b")
    assert "`set.xyz`" in refused("invalid-data", tmp_path / "set.xyz")
    for name in ("set.npz", "set.safetensors"):
        (tmp_path / name).write_bytes(b"not this")
        assert name in refused("invalid-data", tmp_path / name)
    folder = image_folder(tmp_path / "folder", pixels(2), [0, 1], {0: "a", 1: "b"})
    (folder / "b" / "1.png").write_bytes(b"\x89PNG broken")
    assert "1.png" in refused("invalid-data", folder)


def test_an_npz_with_a_pickle_inside_is_refused_and_not_read(tmp_path: Path) -> None:
    path = npz(tmp_path, images=np.array([{"a": 1}], dtype=object), labels=np.array([0]))
    assert "plain arrays" in refused("invalid-data", path)


def test_an_image_bomb_and_a_link_out_of_the_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder(tmp_path / "folder", pixels(2), [0, 1], {0: "a", 1: "b"})
    monkeypatch.setattr("ladle_engine.tasks.images.files.MAX_PIXELS", 29)
    assert "6 x 5" in refused("invalid-data", folder)
    (tmp_path / "secret.png").write_bytes((folder / "a" / "0.png").read_bytes())
    (folder / "a" / "link.png").symlink_to(tmp_path / "secret.png")
    assert "link.png" in refused("path-not-allowed", folder)


def test_a_folder_is_decoded_when_asked_and_an_array_lies_in_memory(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "folder", pixels(2), [0, 1], {0: "a", 1: "b"})
    assert isinstance(open_images(folder, SHAPE, PlainPreprocessing()), DecodedImages)
    arrays = open_images(npz(tmp_path, images=pixels(), labels=np.zeros(4, dtype=int)), SHAPE, PlainPreprocessing())
    assert isinstance(arrays, ArrayImages)


def test_a_file_is_decoded_as_one_of_four_kinds_whatever_its_contents_ask_for(tmp_path: Path) -> None:
    """PIL goes by contents: an EPS called .png would start Ghostscript."""
    folder = image_folder(tmp_path / "folder", pixels(2), [0, 1], {0: "a", 1: "b"})
    (folder / "b" / "1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n%%EndComments\n%%EOF\n")
    assert "must be an image" in refused("invalid-data", folder)


def test_a_damaged_archive_is_named_wherever_the_damage_is(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "set.npz", images=pixels(), labels=np.array([0, 0, 1, 1]))
    whole = (tmp_path / "set.npz").read_bytes()
    damaged_at = 0
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        (tmp_path / "set.npz").write_bytes(damaged)
        try:
            opened(tmp_path / "set.npz")
        except DataError:
            damaged_at += 1
    assert damaged_at > 10


def test_an_npz_is_bounded_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy takes as much memory as a header says, and deflate makes a thousand bytes of one."""
    labels = np.zeros(4, dtype=np.int64)
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=np.zeros((4, 3, 1_500, 1_500), dtype=np.uint8), labels=labels)
    monkeypatch.setattr("ladle_engine.tasks.images.arrays.SMALL_BYTES", 1 << 20)
    tracemalloc.start()
    assert "unpack to at most 100 times its own" in refused("invalid-data", path)
    write_npz(path, {"images": (header((10**12, 5, 6, 3)), b""), "labels": npy(labels)})
    assert "holds 0" in refused("invalid-data", path)
    write_npz(path, {"images": (header((-4, 5, 6, 3)), b""), "labels": npy(labels)})
    refused("invalid-data", path)
    write_npz(path, {f"{number:0200}": npy(labels) for number in range(5_000)})
    assert "table of contents" in refused("invalid-data", path)
    monkeypatch.setattr("ladle_engine.tasks.images.arrays.free_host_bytes", lambda: 700)
    assert "at most 350 bytes, 50% of the memory that is free" in refused("invalid-data", npz_of(tmp_path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20


def npz_of(tmp_path: Path) -> Path:
    return npz(tmp_path, images=pixels(), labels=np.zeros(4, dtype=np.int64))


def header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    descr = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, descr)
    return buffer.getvalue()


def npy(array: np.ndarray) -> tuple[bytes, bytes]:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue(), b""


def write_npz(path: Path, members: Mapping[str, tuple[bytes, bytes]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, (start, rest) in members.items():
            archive.writestr(f"{name}.npy", start + rest)


def test_other_arrays_of_an_npz_are_not_read(tmp_path: Path) -> None:
    members = {"images": npy(pixels()), "labels": npy(np.array([0, 1, 0, 1])), "more": (b"not an array", b"")}
    write_npz(tmp_path / "set.npz", members)
    assert opened(tmp_path / "set.npz")["labels"].tolist() == [0, 1, 0, 1]


def test_arrays_without_a_dimension_or_of_no_pixels_are_refused(tmp_path: Path) -> None:
    labels = np.zeros(2, dtype=np.int64)
    for images, words in (
        (np.uint8(3), "they have ()"),
        (np.zeros(2, dtype=np.float32), "they have (2,)"),
        (np.zeros((2, 0, 0, 3), dtype=np.uint8), "at least 1"),
        (np.zeros((2, 0, 6, 3), dtype=np.float32), "at least 1"),
        (np.zeros((2, 5, 6, 0), dtype=np.uint8), "C = 3"),
        (np.zeros((2, 3, 4, 4), dtype=np.complex64), "uint8 or floating"),
    ):
        assert words in refused("invalid-data", npz(tmp_path, images=images, labels=labels))
    for wrong in (np.int64(1), np.zeros((2, 1), dtype=np.int64), np.array(["a", "b"])):
        refused("invalid-data", npz(tmp_path, images=pixels(2), labels=wrong))
    save_file({"images": torch.tensor(1.0), "labels": torch.tensor(1)}, tmp_path / "set.safetensors")
    assert "they have ()" in refused("invalid-data", tmp_path / "set.safetensors")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, last: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + pixels + last + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(0, 0), "0.png"),
        (png(0, 7), "0.png"),
        (png(9_000, 9_000), "1 to 64,000,000 pixels"),
        (png(60_000, 60_000), "0.png"),
        (png(2**31 - 1, 2**31 - 1), "0.png"),
        (png(4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * (64 << 20)))), "0.png"),
        (png(4, 4, chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x" * (64 << 20)))), "0.png"),
        (png(4, 4, last=chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * (64 << 20)))), "0.png"),
        (png(4, 4)[:40], "0.png"),
        (b"", "0.png"),
        (b"BM" + struct.pack("<IHHIIiiHHIIIIII", 60, 0, 0, 54, 40, 10**9, 10**9, 1, 24, 0, 0, 0, 0, 0, 0), "0.png"),
    ],
    ids=["0x0", "0x7", "81MP", "3600MP", "absurd", "zTXt", "iCCP", "zTXt at the end", "cut", "empty", "bmp"],
)
@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
def test_a_bomb_or_an_image_of_no_pixels_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    folder = image_folder(tmp_path / "folder", pixels(2), [1, 1], {1: "b"})
    (folder / "a").mkdir()
    (folder / "a" / "0.png").write_bytes(content)
    tracemalloc.start()
    assert words in refused("invalid-data", folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 << 20


def test_a_damaged_image_is_named_wherever_the_damage_is(tmp_path: Path) -> None:
    messages: list[str] = []
    for suffix in ("png", "jpg", "webp", "bmp"):
        folder = tmp_path / suffix / "a"
        folder.mkdir(parents=True)
        Image.fromarray(pixels(1)[0]).save(folder / f"0.{suffix}")
        whole = (folder / f"0.{suffix}").read_bytes()
        for position in range(0, len(whole), 5):
            damaged = bytearray(whole)
            damaged[position] ^= 0xFF
            (folder / f"0.{suffix}").write_bytes(damaged)
            try:
                opened(tmp_path / suffix, ImageShape(channels=3, num_classes=1, class_ids=None))
            except DataError as error:
                messages.append(str(error))
    assert len(messages) > 20
    assert all(re.search(r"`.*/a/0\.(png|jpg|webp|bmp)`", message) for message in messages)


def test_what_is_neither_file_nor_folder_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    refused("invalid-data", tmp_path / "pipe.npz")
    (tmp_path / "gone.npz").symlink_to(tmp_path / "absent.npz")
    refused("invalid-data", tmp_path / "gone.npz")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    refused("invalid-data", tmp_path / "self")


def test_a_model_of_more_channels_takes_arrays_and_no_files(tmp_path: Path) -> None:
    five = ImageShape(channels=5, num_classes=2, class_ids=None)
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 5), dtype=np.uint8)
    path = npz(tmp_path, images=images, labels=np.array([0, 1]))
    expected = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32) / 255
    assert torch.equal(opened(path, five)["pixel_values"], expected)
    folder = image_folder(tmp_path / "folder", pixels(2), [0, 1], {0: "a", 1: "b"})
    assert "1 or 3 channels, but this one takes 5" in refused("invalid-data", folder, five)


@pytest.mark.parametrize(
    "wrong", [{"channels": 0}, {"channels": "3"}, {"num_classes": 2.0}, {"num_classes": -1}], ids=str
)
def test_a_plug_in_that_passes_on_a_wrong_number_of_its_config_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match="must be a whole number of at least 1, but is"):
        ImageShape(**{"channels": 3, "num_classes": 2, "class_ids": None} | wrong)
