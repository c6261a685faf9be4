"""Zero-shot classification and retrieval with CLIP: what transformers computes, example by example."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPModel, SiglipConfig, SiglipModel

from ladle_engine import average
from ladle_engine.checkpoints import discover
from ladle_engine.errors import EngineError
from ladle_engine.model.binding import bind
from ladle_engine.tasks.base import DataSet
from ladle_engine.tasks.image_text import ImageText
from ladle_engine.tasks.vision import dual_encoder
from ladle_engine.tasks.vision.pairs import groups_of
from ladle_engine.testing import check_task
from tests.unit.tasks.clip_models import (
    COLOURS,
    caption_of,
    clip_folder,
    clip_tokenizer,
    colour_folders,
    image_of,
    pair_rows,
    pairs_jsonl,
)

TEMPLATES = ["a photo of a {}.", "the colour {}, again and again", "{}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_folders(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pairs_jsonl(tmp_path_factory.mktemp("captions") / "set")


def opened(folder: Path, data: Path, **options: Any) -> tuple[ImageText, nn.Module, DataSet]:
    checkpoints = discover(folder)
    task = ImageText.from_options(options)
    model = task.build_model(checkpoints)
    binding = bind(model, checkpoints, task.stored_names(model, checkpoints))
    binding.load(checkpoints.reference)
    return task, model.eval(), task.open_data(data, checkpoints)


def theirs(folder: Path) -> CLIPModel:
    return CLIPModel.from_pretrained(folder / "checkpoint-3").eval()


def pixels(images: list[Image.Image]) -> Tensor:
    return CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16)(
        images=images, return_tensors="pt"
    ).pixel_values


def features(model: CLIPModel, texts: list[str]) -> Tensor:
    inputs = clip_tokenizer()(texts, padding=True, truncation=True, return_tensors="pt")
    return F.normalize(model.get_text_features(**inputs).pooler_output, dim=-1)


@torch.no_grad()
def test_zero_shot_values_are_those_of_transformers_and_clips_averaged_templates(folder: Path, colours: Path) -> None:
    task, model, data = opened(folder, colours, templates=TEMPLATES)
    values = task.evaluate(model, data.batch(torch.arange(len(data))))
    clip = theirs(folder)
    # Class folders come in order of their names.
    names = sorted(COLOURS, key=lambda name: name.replace(" ", "_"))
    classes = [features(clip, [each.format(name) for each in TEMPLATES]).mean(dim=0) for name in names]
    images = pixels([image_of(name, number) for name in names for number in range(4)])
    encoded = F.normalize(clip.get_image_features(pixel_values=images).pooler_output, dim=-1)
    logits = clip.logit_scale.exp() * encoded @ F.normalize(torch.stack(classes), dim=-1).T
    labels = torch.arange(len(names)).repeat_interleave(4)
    torch.testing.assert_close(values["loss"], F.cross_entropy(logits, labels, reduction="none"), rtol=1e-4, atol=1e-4)
    assert torch.equal(values["accuracy"], (logits.argmax(dim=1) == labels).float())
    in_five = (logits.topk(5, dim=1).indices == labels[:, None]).any(dim=1).float()
    assert torch.equal(values["recall-5"], in_five)


@torch.no_grad()
def test_the_values_of_pairs_are_those_of_transformers_in_each_group(folder: Path, captions: Path) -> None:
    task, model, data = opened(folder, captions, candidates=2)
    groups = groups_of(40, 2)
    assert (len(data), groups.shape) == (20, (20, 2))
    values = task.evaluate(model, data.batch(torch.arange(len(data))))
    clip = theirs(folder)
    for number, group in enumerate(groups.tolist()):
        texts = clip_tokenizer()([caption_of(each) for each in group], padding=True, return_tensors="pt")
        images = pixels([image_of(list(COLOURS)[each % 6], each) for each in group])
        answer = clip(**texts, pixel_values=images, return_loss=True)
        assert float(values["loss"][number]) == pytest.approx(float(answer.loss), abs=1e-4)
        own = torch.arange(2)
        right = (answer.logits_per_image.argmax(dim=1) == own).float().mean()
        assert float(values["accuracy"][number]) == float(right)
        right = (answer.logits_per_text.argmax(dim=1) == own).float().mean()
        assert float(values["text-recall-1"][number]) == float(right)


@pytest.mark.parametrize("kind", ["colours", "captions"])
@torch.no_grad()
def test_values_do_not_depend_on_the_batch(folder: Path, kind: str, request: pytest.FixtureRequest) -> None:
    task, model, data = opened(folder, request.getfixturevalue(kind), candidates=3)
    whole = task.evaluate(model, data.batch(torch.arange(len(data))))
    for size in (1, 3, 8):
        parts = [task.evaluate(model, data.batch(indices)) for indices in torch.arange(len(data)).split(size)]
        for name, values in whole.items():
            torch.testing.assert_close(torch.cat([part[name] for part in parts]), values, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("kind", ["colours", "captions"])
@torch.no_grad()
def test_losses_are_float32_where_the_model_computes_in_halves(
    folder: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    task, model, data = opened(folder, request.getfixturevalue(kind))
    batch = data.batch(torch.arange(len(data)))
    expected = task.evaluate(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = task.evaluate(model, batch)
    assert {values.dtype for values in found.values()} == {torch.float32}
    # bfloat16 alone has no more than 256 values between two powers of two.
    assert len(found["loss"].to(torch.bfloat16).to(torch.float32).sub(found["loss"]).nonzero()) > 0
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", ["colours", "captions"])
def test_the_task_follows_the_rules(folder: Path, kind: str, request: pytest.FixtureRequest) -> None:
    check_task(ImageText, folder, request.getfixturevalue(kind), options={"classes": list(COLOURS)})


def test_coefficients_are_trained_on_images_without_labels(folder: Path, colours: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, colour in enumerate(COLOURS):
        image_of(colour, 50 + number).save(tmp_path / "images" / f"{number}.png")
    average(
        folder, colours, output=tmp_path / "out", task=ImageText, train_set=tmp_path / "images",
        train_set_use="entropy", method="twa", method_options={"steps": 2},
    )  # fmt: skip
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_images_without_labels_need_names_from_somewhere(folder: Path, colours: Path) -> None:
    with pytest.raises(EngineError, match="Give the task option `classes`"):
        ImageText().open_unlabelled(colours, discover(folder))


@pytest.mark.parametrize("kind", ["colours", "captions"])
def test_gradients_are_the_same_chunk_by_chunk(
    folder: Path, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for chunk in (1000, 5):
        monkeypatch.setattr(dual_encoder, "CHUNK", chunk)
        task, model, data = opened(folder, request.getfixturevalue(kind), templates=TEMPLATES)
        task.loss(model, data.batch(torch.arange(8))).backward()
        found.append({name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None})
    assert "model.logit_scale" in found[0]
    assert any("text_model" in name for name in found[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-5)


def test_a_clip_is_averaged_and_recognised(folder: Path, colours: Path, tmp_path: Path) -> None:
    options = {"methods": ["uniform", "twa"], "options": {"twa": {"steps": 3}}}
    average(
        folder, colours, output=tmp_path / "out", task=ImageText, method="auto", method_options=options,
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["task"] == "image-text"
    CLIPModel.from_pretrained(tmp_path / "out")
    assert ImageText.recognises(discover(folder))


def write_pairs(root: Path, kind: str) -> Path:
    """The same pairs as `pairs_jsonl`."""
    rows = pair_rows(root / "set", 40)
    path: Path = root / "set"
    if kind == "texts beside":
        for row in rows:
            (path / row["image"]).with_suffix(".txt").write_text(row["caption"] + "\n")
        return path
    if kind == "csv":
        lines = [f"{row['image']},{row['caption']}" for row in rows]
        (path / "captions.csv").write_text("\n".join(["file_name,text", *lines]))
        return path
    if kind == "a table file":
        (path / "anything.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return path / "anything.jsonl"
    images = [(path / row["image"]).read_bytes() for row in rows]
    if kind == "webdataset":
        with tarfile.open(root / "0.tar", "w") as archive:
            for number, (image, row) in enumerate(zip(images, rows, strict=True)):
                for suffix, content in (("png", image), ("txt", row["caption"].encode())):
                    member = tarfile.TarInfo(f"{number:04}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return root / "0.tar"
    import pyarrow as pa
    import pyarrow.parquet as parquet

    encoded = [{"bytes": image, "path": None} for image in images]
    several = [[row["caption"], "another"] for row in rows]
    parquet.write_table(pa.table({"image": encoded, "captions": several}), root / "pairs.parquet")
    return root / "pairs.parquet"


@pytest.mark.parametrize("kind", ["texts beside", "csv", "a table file", "webdataset", "parquet"])
def test_pairs_come_in_many_layouts(folder: Path, captions: Path, tmp_path: Path, kind: str) -> None:
    _, _, data = opened(folder, write_pairs(tmp_path, kind))
    _, _, expected = opened(folder, captions)
    assert len(data) == len(expected)
    one, other = (each.batch(torch.arange(5)) for each in (data, expected))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def names_of(folder: Path, data: Path, **options: Any) -> list[str]:
    """The texts of the classes, in order."""
    task, _, _ = opened(folder, data, templates=["{}"], **options)
    ids = task._classes[0].tensors["input_ids"]
    return clip_tokenizer().batch_decode(ids, skip_special_tokens=True)


def test_class_names_come_from_the_folders_classes_txt_or_the_option(folder: Path, tmp_path: Path) -> None:
    plain = colour_folders(tmp_path / "plain")
    spaced = [" ".join(name) for name in sorted(COLOURS, key=lambda name: name.replace(" ", "_"))]

    def letters(names: list[str]) -> list[str]:
        return ["".join(name.split()) for name in names]

    assert letters(names_of(folder, plain)) == letters(spaced)
    ids = {name: f"n0000000{number}" for number, name in enumerate(COLOURS)}
    synsets = colour_folders(tmp_path / "synsets", names=ids)
    with pytest.raises(EngineError, match=r"Put a `classes\.txt` there"):
        names_of(folder, synsets)
    lines = [f"{ids[name]} {name}" for name in reversed(COLOURS)]
    (synsets / "classes.txt").write_text("\n".join([*lines, "n99999999 purple"]))
    assert letters(names_of(folder, synsets)) == letters([*reversed(COLOURS), "purple"])
    (synsets / "classes.txt").write_text("\n".join(COLOURS))
    assert letters(names_of(folder, synsets)) == letters(list(COLOURS))
    (plain / "classes.txt").write_text("\n".join([*reversed(COLOURS), "purple"]))
    assert letters(names_of(folder, plain)) == letters([*reversed(COLOURS), "purple"])
    (synsets / "classes.txt").write_text("red\ngreen")
    with pytest.raises(EngineError, match="2 lines for 6 folders"):
        names_of(folder, synsets)


def test_labels_follow_the_order_of_classes_txt(folder: Path, tmp_path: Path) -> None:
    data = colour_folders(tmp_path / "plain", each=1)
    (data / "classes.txt").write_text("\n".join(reversed(COLOURS)))
    _, _, images = opened(folder, data)
    sorted_names = sorted(COLOURS, key=lambda name: name.replace(" ", "_"))
    expected = [list(reversed(COLOURS)).index(name) for name in sorted_names]
    assert images.batch(torch.arange(6))["labels"].tolist() == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"templates": []}, "`templates`"),
        ({"templates": ["a photo"]}, "`templates`"),
        ({"templates": ["{} and {}"]}, "`templates`"),
        ({"classes": ["red"]}, "`classes`"),
        ({"classes": ["red", "red"]}, "`classes`"),
        ({"candidates": 1}, "`candidates`"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(EngineError, match=words) as raised:
        ImageText.from_options(options)
    assert raised.value.code == "invalid-task-options"


def refused(folder: Path, data: Path, **options: Any) -> tuple[str, str]:
    with pytest.raises(EngineError) as raised:
        opened(folder, data, **options)
    return raised.value.code, raised.value.message


BREAKING: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "an empty caption": (lambda root: (root / "0003.txt").write_text(" \n"), "invalid-data", "0003.png"),
    "no caption": (lambda root: (root / "0003.txt").unlink(), "invalid-data", "0003.png"),
    "not UTF-8": (lambda root: (root / "0003.txt").write_bytes(b"\xff\xfe\xfa"), "invalid-data", "0003.txt"),
    "a link": (
        lambda root: ((root / "0003.txt").unlink(), (root / "0003.txt").symlink_to("/etc/hostname")),
        "path-not-allowed",
        "0003.txt",
    ),
}


@pytest.mark.parametrize(("change", "code", "words"), BREAKING.values(), ids=BREAKING)
def test_captions_that_are_broken_are_named(
    folder: Path, tmp_path: Path, change: Callable[[Path], object], code: str, words: str
) -> None:
    data = write_pairs(tmp_path, "texts beside")
    change(data)
    assert refused(folder, data)[0] == code
    assert words in refused(folder, data)[1]


def test_too_few_pairs_and_unknown_columns_are_refused(folder: Path, tmp_path: Path) -> None:
    assert refused(folder, pairs_jsonl(tmp_path / "few", 3))[0] == "too-little-data"
    data = pairs_jsonl(tmp_path / "many")
    code, message = refused(folder, data / "captions.jsonl", columns={"caption": "titel"})
    assert (code, "`caption`" in message) == ("invalid-data", True)


def test_a_model_that_is_no_dual_encoder_is_refused_in_words(tmp_path: Path, colours: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16)
    for step in (1, 2):
        ViTForImageClassification(config).save_pretrained(tmp_path / f"checkpoint-{step}")
    code, message = refused(tmp_path, colours)
    assert code == "model-mismatch"
    assert "a dual encoder of images and texts" in message
    assert "ViTForImageClassification" in message


def test_a_folder_without_a_tokenizer_is_refused_in_words(tmp_path: Path, colours: Path) -> None:
    clip_folder(tmp_path, 2)
    for file in tmp_path.rglob("tokenizer*"):
        file.unlink()
    code, message = refused(tmp_path, colours)
    assert code == "model-mismatch"
    assert "tokenizer" in message


@torch.no_grad()
def test_siglips_texts_have_its_full_length(tmp_path: Path, colours: Path) -> None:
    """It attends to padding, so a text's features depend on how much there is."""
    tokenizer = clip_tokenizer()
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 32, "projection_size": 32,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    for step in (1, 2):
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
        tokenizer.save_pretrained(tmp_path / f"checkpoint-{step}")
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16).save_pretrained(tmp_path / f"checkpoint-{step}")
    task, ours, data = opened(tmp_path, colours)
    values = task.evaluate(ours, data.batch(torch.arange(len(data))))
    names = sorted(COLOURS, key=lambda name: name.replace(" ", "_"))
    inputs = tokenizer(
        [f"a photo of a {name}." for name in names], padding="max_length", max_length=32, return_tensors="pt"
    )
    images = pixels([image_of(name, number) for name in names for number in range(4)])
    answer = model(input_ids=inputs.input_ids, pixel_values=images)
    labels = torch.arange(6).repeat_interleave(4)
    # A bias for all is none.
    expected = F.cross_entropy(answer.logits_per_image, labels, reduction="none")
    torch.testing.assert_close(values["loss"], expected, rtol=1e-4, atol=1e-4)
