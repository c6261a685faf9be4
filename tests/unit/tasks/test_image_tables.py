"""Images in parquet, arrow, WebDataset shards, csv and JSON lines give the batches that class folders give."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ladle_engine.errors import EngineError
from ladle_engine.tasks.images.data_sets import open_images
from ladle_engine.tasks.images.preprocessing import PlainPreprocessing
from ladle_engine.tasks.images.shape import ImageShape
from ladle_engine.tasks.tables import TableOptions

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

NAMES = ("ant", "bee")
SHAPE = ImageShape(channels=3, num_classes=2, class_ids={"bee": 0, "ant": 1})
"""The model's numbers are not those of the data set."""
PLAIN = PlainPreprocessing(size=(8, 8))
COUNT = 6


def encoded(number: int, kind: str = "PNG", size: tuple[int, int] = (9, 7)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()


IMAGES = [encoded(number) for number in range(COUNT)]
LABELS = [number % 2 for number in range(COUNT)]
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": list(NAMES)},
}


def rows_of_datasets(images: Sequence[Any] = IMAGES, labels: Sequence[Any] = LABELS, names: bool = True) -> Any:
    """A table with the schema that datasets writes for an `Image` and a `ClassLabel` feature."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    metadata = {b"huggingface": json.dumps({"info": {"features": FEATURES}}).encode()} if names else None
    schema = pa.schema([pa.field("image", kind), pa.field("label", pa.int64())], metadata=metadata)
    values = [{"bytes": each, "path": None} for each in images]
    return pa.table({"image": pa.array(values, kind), "label": pa.array(labels, pa.int64())}, schema=schema)


def class_folders(root: Path) -> Path:
    """The same images. In order of the folders' names, so not of their numbers."""
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        folder = root / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(image)
    return root


def write_parquet(root: Path) -> Path:
    parquet.write_table(rows_of_datasets(), root / "val.parquet", row_group_size=4)
    return root / "val.parquet"


def write_parquet_shards(root: Path) -> Path:
    (root / "hub" / "data").mkdir(parents=True)
    for number in range(2):
        part = rows_of_datasets().slice(number * 3, 3)
        parquet.write_table(part, root / "hub" / "data" / f"validation-0000{number}-of-00002.parquet")
    return root / "hub"


def write_saved(root: Path) -> Path:
    """As `datasets.save_to_disk`."""
    folder = root / "saved"
    folder.mkdir()
    table = rows_of_datasets()
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    return folder


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_webdataset(root: Path) -> Path:
    """Classes by the model's number."""
    files: dict[str, bytes] = {}
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        files |= {f"a/{number:04}.png": image, f"a/{number:04}.cls": str(1 - label).encode()}
    return write_tar(root / "val-000000.tar", files)


def write_webdataset_json(root: Path) -> Path:
    files: dict[str, bytes] = {}
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        described = json.dumps({"label": NAMES[label], "width": 9}).encode()
        files |= {f"{number:04}.png": image, f"{number:04}.json": described}
    (root / "shards").mkdir()
    write_tar(root / "shards" / "val-000000.tar", files)
    return root / "shards"


def write_files_and_csv(root: Path) -> Path:
    folder = class_folders(root / "files")
    lines = [f"{NAMES[label]}/{number}.png,{NAMES[label]}" for number, label in enumerate(LABELS)]
    (folder / "val.csv").write_text("\n".join(["file_name,label", *lines]))
    return folder / "val.csv"


def write_files_and_jsonl(root: Path) -> Path:
    folder = class_folders(root / "files")
    rows = [{"image": f"{NAMES[label]}/{number}.png", "label": 1 - label} for number, label in enumerate(LABELS)]
    (folder / "val.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "val.jsonl"


WRITERS: list[Callable[[Path], Path]] = [
    write_parquet, write_parquet_shards, write_saved, write_webdataset, write_webdataset_json, write_files_and_csv,
    write_files_and_jsonl,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_batches_of_class_folders(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)
    data = open_images(path, SHAPE, PLAIN)
    folders = open_images(class_folders(tmp_path / "folders"), SHAPE, PLAIN)
    assert len(data) == COUNT
    # Class folders come class by class: first the even numbers.
    order = torch.tensor([0, 2, 4, 1, 3, 5])
    one, other = data.batch(order), folders.batch(torch.arange(COUNT))
    assert torch.equal(one["pixel_values"], other["pixel_values"])
    assert torch.equal(one["labels"], other["labels"])
    assert one["labels"].tolist() == [1, 1, 1, 0, 0, 0]


def test_a_shard_may_have_several_kinds_of_images(tmp_path: Path) -> None:
    files = {"0.jpg": encoded(0, "JPEG"), "0.cls": b"1", "1.png": encoded(1), "1.cls": b"0"}
    data = open_images(write_tar(tmp_path / "val.tar", files), SHAPE, PLAIN)
    assert data.batch(torch.tensor([0, 1]))["labels"].tolist() == [1, 0]


def test_options_name_the_columns_the_split_and_the_number_of_rows(tmp_path: Path) -> None:
    table = rows_of_datasets(names=False).rename_columns(["photo", "kind"])
    for split in ("train", "test"):
        parquet.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    columns = {"image": "photo", "label": "kind"}
    data = open_images(tmp_path, SHAPE, PLAIN, TableOptions(columns=columns, split="test", limit=4))
    assert len(data) == 4
    assert data.batch(torch.arange(4))["labels"].tolist() == [0, 1, 0, 1]


def refused(path: Path, options: TableOptions | None = None, shape: ImageShape = SHAPE) -> tuple[str, str]:
    with pytest.raises(EngineError) as raised:
        data = open_images(path, shape, PLAIN, options or TableOptions())
        data.batch(torch.arange(len(data)))
    return raised.value.code, raised.value.message


def saved(root: Path, table: Any) -> Path:
    parquet.write_table(table, root / "val.parquet")
    return root / "val.parquet"


def test_labels_that_the_model_does_not_know_are_named_by_their_row(tmp_path: Path) -> None:
    code, message = refused(saved(tmp_path, rows_of_datasets(labels=[0, 1, 0, 1, 0, -1])))
    assert code == "unknown-classes"
    assert "row 6" in message or "row 5" in message
    assert "-1" in message
    other = ImageShape(channels=3, num_classes=2, class_ids={"cat": 0, "dog": 1})
    code, message = refused(saved(tmp_path, rows_of_datasets()), shape=other)
    assert (code, "`ant`, `bee`" in message, "cat, dog" in message) == ("unknown-classes", True, True)


def test_names_are_sorted_where_the_model_has_none(tmp_path: Path) -> None:
    shape = ImageShape(channels=3, num_classes=2, class_ids=None)
    data = open_images(write_files_and_csv(tmp_path), shape, PLAIN)
    assert data.batch(torch.arange(3))["labels"].tolist() == [0, 1, 0]


def test_images_that_do_not_decode_are_named_by_their_row(tmp_path: Path) -> None:
    for broken in (b"not an image", b"", None, encoded(0, "TIFF"), IMAGES[0][:40]):
        code, message = refused(saved(tmp_path, rows_of_datasets(images=[*IMAGES[:5], broken])))
        assert code == "invalid-data"
        assert "val.parquet" in message


def test_an_image_bomb_in_a_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladle_engine.tasks.images.files.MAX_PIXELS", 60)
    code, message = refused(saved(tmp_path, rows_of_datasets()))
    assert (code, "9 x 7" in message) == ("invalid-data", True)


@pytest.mark.parametrize("name", ["../secret.png", "link.png", "/etc/passwd", "a\0b"])
def test_paths_in_a_table_do_not_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(IMAGES[0])
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    (inside / "val.jsonl").write_text(json.dumps({"image": name, "label": 0}))
    code, message = refused(inside / "val.jsonl")
    assert code == "path-not-allowed"
    assert "row 1" in message or "line 1" in message


def test_a_table_without_images_or_labels_says_what_is_there(tmp_path: Path) -> None:
    code, message = refused(saved(tmp_path, pa.table({"text": ["a"], "label": [1]})))
    assert (code, "`text`" in message, "`image`" in message) == ("invalid-data", True, True)
    code, message = refused(saved(tmp_path, rows_of_datasets().drop_columns(["label"])))
    assert (code, "`label`" in message) == ("invalid-data", True)


def test_options_of_tables_are_refused_for_class_folders(tmp_path: Path) -> None:
    code, message = refused(class_folders(tmp_path / "folders"), TableOptions(limit=3))
    assert (code, "`limit`" in message) == ("invalid-task-options", True)


def test_notes_beside_class_folders_make_no_table_of_them(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "folders")
    (folder / "classes.txt").write_text("ant\nbee")
    (folder / "meta.json").write_text("{}")
    assert len(open_images(folder, SHAPE, PLAIN)) == COUNT
