"""Which label a class folder stands for, however people name it, and what is said when it cannot be told."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from ladle_engine import DataError
from ladle_engine.tasks.images.data_sets import ImageShape, open_images
from ladle_engine.tasks.images.preprocessing import PlainPreprocessing

NAMED = {"cat": 0, "Polar Bear": 1, "sea-lion": 2}
IMAGENET = {"tench, Tinca tinca": 0, "crane": 1, "crane, hoist": 2, "goldfish, Carassius auratus": 3}


def folder_of(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if Path(name).suffix.lower() in (".png", ".jpg", ".bmp"):
            Image.new("RGB", (4, 4)).save(root / name)
        else:
            (root / name).write_text("x")
    return root


def labels(root: Path, names: Mapping[str, int] | None, num_classes: int = 3) -> dict[str, int]:
    """Folder -> label, of those with images."""
    shape = ImageShape(channels=3, num_classes=num_classes, class_ids=names)
    data = open_images(root, shape, PlainPreprocessing())
    folders = [entry.name for entry in sorted(root.iterdir()) if entry.name[0] != "." and any(entry.rglob("*.png"))]
    assert len(folders) == len(data), "one image in each"
    return dict(zip(folders, data.batch(torch.arange(len(data)))["labels"].tolist(), strict=True))


def remarks(root: Path, names: Mapping[str, int] | None = None, num_classes: int = 3) -> Sequence[str]:
    shape = ImageShape(channels=3, num_classes=num_classes, class_ids=names)
    return open_images(root, shape, PlainPreprocessing()).remarks


def refused(root: Path, names: Mapping[str, int] | None, num_classes: int = 3) -> str:
    with pytest.raises(DataError) as caught:
        labels(root, names, num_classes)
    assert caught.value.code in ("unknown-classes", "empty-data"), caught.value
    return str(caught.value)


@pytest.mark.parametrize(
    ("folders", "names", "expected"),
    [
        (["cat", "Polar Bear", "sea-lion"], NAMED, [1, 0, 2]),
        (["sea-lion"], NAMED, [2]),
        (["CAT", "polar_bear", "Sea Lion"], NAMED, [0, 2, 1]),
        (["polar-bear", "sea_lion"], NAMED, [1, 2]),
        (["0", "2", "1"], NAMED, [0, 1, 2]),
        (["002", "01"], NAMED, [2, 1]),
        (["LABEL_2", "LABEL_0"], NAMED, [0, 2]),
        (["label 1", "Label-2"], None, [2, 1]),
        (["1", "0"], {"1": 0, "0": 1}, [1, 0]),
        (["b", "a", "c"], None, [0, 1, 2]),
        (["b", "a", "c"], {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, [0, 1, 2]),
        (["\u00b3", "\u0663", "x"], None, [0, 1, 2]),
        (["n01440764", "n02102040", "n01443537"], {"tench": 0, "goldfish": 1, "springer": 2}, [0, 1, 2]),
    ],
    ids=str,
)
def test_class_folders_are_known_by_the_names_that_people_give_them(
    tmp_path: Path, folders: list[str], names: Mapping[str, int] | None, expected: list[int]
) -> None:
    """`expected` is in the order of the folders' names."""
    root = folder_of(tmp_path, *(f"{folder}/1.png" for folder in folders))
    assert list(labels(root, names).values()) == expected


def test_one_of_several_names_of_a_class_will_do_unless_two_classes_have_it(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "tench/1.png", "Carassius_auratus/1.png", "hoist/1.png")
    assert labels(root, IMAGENET, 4) == {"tench": 0, "Carassius_auratus": 3, "hoist": 2}
    assert "has `Crane`" in refused(folder_of(tmp_path / "b", "Crane/1.png", "tench/1.png"), IMAGENET, 4)


def test_an_accent_is_the_same_in_one_character_or_two(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "caf\u00e9")
    root = folder_of(tmp_path, f"{decomposed}/1.png")
    assert list(labels(root, {"caf\u00e9": 1, "thé": 0}, 2).values()) == [1]


def test_images_lie_as_deep_in_their_class_as_they_like(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "cat/tabby/old/1.PNG", "cat/2.Jpg", "sea-lion/3.png", "sea-lion/.hidden/4.png")
    shape = ImageShape(channels=3, num_classes=3, class_ids=NAMED)
    data = open_images(root, shape, PlainPreprocessing())
    assert data.batch(torch.arange(len(data)))["labels"].tolist() == [0, 0, 2]


def test_empty_and_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    root = folder_of(
        tmp_path, "cat/1.png", "sea-lion/2.png", ".ipynb_checkpoints/3.png", "._cat/4.png", "cat/.DS_Store"
    )
    (root / "masks").mkdir()
    assert labels(root, NAMED) == {"cat": 0, "sea-lion": 2}
    assert remarks(root, NAMED) == ()
    root = folder_of(tmp_path / "b", "x/1.png", "z/1.png")
    (root / "y").mkdir()
    assert labels(root, None) == {"x": 0, "z": 2}, "an empty class still counts where the alphabet decides"
    assert labels(root, None, 2) == {"x": 0, "z": 1}, "an empty folder is none where there are enough others"


def test_files_that_are_no_images_are_passed_over_and_said(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "a/1.png", "a/notes.txt", "b/2.png", "b/3.tif", "c/4.png", "labels.csv")
    os.mkfifo(root / "b" / "pipe.png")
    (root / "c" / "broken.png").symlink_to(root / "c" / "gone.png")
    (root / "c" / "loop.png").symlink_to(root / "c" / "loop.png")
    (remark,) = remarks(root)
    assert remark.startswith("5 files in the folders of")
    assert "a/notes.txt, b/3.tif, b/pipe.png, c/broken.png, c/loop.png" in remark
    only = refused(folder_of(tmp_path / "only", "a/1.tif", "b/2.tif"), None)
    assert "no image in them, but files of other kinds (.tif)" in only
    beside = refused(folder_of(tmp_path / "beside", "1.png", "2.png"), None)
    assert "only 2 images beside them" in beside


def test_links_inside_the_folder_are_followed_once_and_links_out_of_it_never(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", "a/1.png", "b/2.png", "c/3.png")
    (root / "c" / "more").symlink_to(root / "c")
    (root / "c" / "b").symlink_to(root / "b")
    shape = ImageShape(channels=3, num_classes=3, class_ids=None)
    data = open_images(root, shape, PlainPreprocessing())
    assert data.batch(torch.arange(len(data)))["labels"].tolist() == [0, 1, 2, 2]
    folder_of(tmp_path / "secret", "4.png")
    (root / "c" / "out").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="leads out of it") as caught:
        labels(root, None)
    assert caught.value.code == "path-not-allowed"


def test_a_folder_with_train_and_val_in_it_is_no_folder_of_classes(tmp_path: Path) -> None:
    both = folder_of(tmp_path / "a", "train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/dog/1.png")
    for names in (None, {"cat": 0, "dog": 1}, {"LABEL_0": 0, "LABEL_1": 1}):
        assert f"Did you mean `{both / 'train'}`?" in refused(both, names, 2), names
    wrapped = folder_of(tmp_path / "b", "images/cat/1.png", "images/polar bear/2.png")
    assert f"Did you mean `{wrapped / 'images'}`?" in refused(wrapped, NAMED)
    unnamed = folder_of(tmp_path / "c", "photos/cat/1.png", "photos/dog/2.png")
    assert f"Did you mean `{unnamed / 'photos'}`?" in refused(unnamed, None, 2)
    breeds = folder_of(tmp_path / "d", "cat/tabby/1.png", "dog/pug/2.png")
    assert labels(breeds, None, 2) == {"cat": 0, "dog": 1}, "classes may have folders of their own"
    tested = folder_of(tmp_path / "e", "test/1.png", "val/2.png")
    assert labels(tested, {"test": 1, "val": 0}, 2) == {"test": 1, "val": 0}, "a class may be called so"


def test_unknown_folders_are_listed_with_what_they_could_be(tmp_path: Path) -> None:
    message = refused(folder_of(tmp_path / "a", "cat/1.png", "dog/1.png", "3/1.png"), NAMED)
    assert "as in the model's config (cat, Polar Bear, sea-lion) or by number from 0 to 2" in message
    assert "has `3`, `dog`." in message
    message = refused(folder_of(tmp_path / "b", "1/1.png", "2/1.png", "3/1.png"), NAMED)
    assert "has `1`, `2`, `3`." in message
    message = refused(folder_of(tmp_path / "c", "1/1.png", "\u00b3/1.png"), None)
    assert "one class folder for each of the model's 3 classes, or folders named by number from 0 to 2" in message


def test_numbers_that_loaders_sort_as_text_are_worth_a_word(tmp_path: Path) -> None:
    root = folder_of(tmp_path, *(f"{number}/1.png" for number in range(11)))
    assert labels(root, None, 11)["10"] == 10
    assert "10 before 2" in remarks(root, None, 11)[0]
    assert remarks(root, {str(number): number for number in range(11)}, 11) == ()
