"""Where an image classifier comes from: what the folder or the option says, and what is said where neither does."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPForImageClassification

from ladle_engine.checkpoints import discover
from ladle_engine.errors import EngineError
from ladle_engine.model.binding import bind
from ladle_engine.tasks.image_classification import ImageClassification, ImageOptions
from ladle_engine.tasks.vision.timm_settings import find_settings
from tests.builders import make_checkpoints
from tests.unit.tasks.clip_models import clip_config

ARGS = "model: resnet18\nnum_classes: 10\ncrop_pct: null\ninterpolation: ''\nmean: [0.5, 0.5, 0.5]\nmodel_kwargs: {}\n"
without_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed here")


def folder(root: Path, args: str | bytes | None = None, config: dict[str, Any] | None = None) -> Path:
    for step in (1, 2):
        save_file({"fc.weight": torch.full((10, 4), float(step))}, root / f"checkpoint-{step}.safetensors")
    if args is not None:
        (root / "args.yaml").write_bytes(args.encode() if isinstance(args, str) else args)
    if config is not None:
        (root / "config.json").write_text(json.dumps(config))
    return root


def refusal(root: Path, **options: Any) -> tuple[str, str]:
    with pytest.raises(EngineError) as raised:
        ImageClassification.from_options(options).build_model(discover(root))
    return raised.value.code, raised.value.message


@without_timm
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_library_that_is_absent_is_named_with_the_line_that_installs_it(tmp_path: Path, library: str) -> None:
    code, message = refusal(folder(tmp_path), model=f"{library}:resnet18")
    assert code == "missing-library"
    assert "pip install 'ladle[vision]'" in message
    assert f"`{library}" in message


@without_timm
def test_timms_files_are_recognised_without_timm(tmp_path: Path) -> None:
    assert ImageClassification.recognises(discover(folder(tmp_path, ARGS)))
    assert refusal(tmp_path)[0] == "missing-library"


def test_timms_hub_layout_is_recognised(tmp_path: Path) -> None:
    config = {"architecture": "resnet18", "num_classes": 10, "pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}
    checkpoints = discover(folder(tmp_path, config=config))
    assert ImageClassification.recognises(checkpoints)
    settings = find_settings(checkpoints)
    assert settings is not None
    assert (settings.model, settings.num_classes, settings.data) == ("resnet18", 10, {"mean": [0.5, 0.5, 0.5]})


def merged(number: int) -> str:
    return f"a{number}: &a{number} {{<<: [{', '.join([f'*a{number - 1}'] * 9)}]}}\n"


OTHERS = {
    "ultralytics": "task: detect\nmodel: yolov8n.pt\nepochs: 3\n",
    "python tags": ARGS + "lr: !!python/object/apply:os.system ['true']\n",
    "a bomb of merge keys": "a0: &a0 {x: 1}\n" + "".join(map(merged, range(1, 9))) + ARGS,
    "too large": ARGS + "x: " + "y" * 70_000,
    "not YAML": b"\x00\xff\xfe: [",
    "a list": "- model\n- num_classes\n",
    "deep": "x: " + "[" * 5000,
    "empty": "",
}


@pytest.mark.parametrize("args", OTHERS.values(), ids=OTHERS)
def test_an_args_file_of_another_tool_or_a_broken_one_says_nothing(tmp_path: Path, args: str | bytes) -> None:
    checkpoints = discover(folder(tmp_path, args))
    assert not ImageClassification.recognises(checkpoints)
    code, message = refusal(tmp_path)
    assert code == "model-mismatch"
    assert "Its `args.yaml` is not timm's" in message
    assert "`model`" in message


def test_an_args_file_that_leads_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "outside.yaml").write_text(ARGS)
    inside = tmp_path / "inside"
    inside.mkdir()
    folder(inside)
    (inside / "args.yaml").symlink_to(tmp_path / "outside.yaml")
    assert not ImageClassification.recognises(discover(inside))


def test_aliases_of_lists_are_read(tmp_path: Path) -> None:
    args = ARGS.replace("mean: [0.5, 0.5, 0.5]", "mean: &id001 [0.5, 0.5, 0.5]\nstd: *id001")
    settings = find_settings(discover(folder(tmp_path, args)))
    assert settings is not None
    assert settings.data["std"] == [0.5, 0.5, 0.5]


def test_a_name_on_timms_hub_is_the_model_alone(tmp_path: Path) -> None:
    settings = find_settings(discover(folder(tmp_path, ARGS.replace("resnet18", "hf-hub:timm/resnet18.a1_in1k"))))
    assert settings is not None
    assert settings.model == "resnet18.a1_in1k"


def test_a_task_with_a_model_of_its_own_has_no_option_for_one() -> None:
    from ladle_small_cnn import SmallCnnTask

    with pytest.raises(EngineError, match="has a model of its own"):
        SmallCnnTask.from_options({"model": "timm:resnet18"})


def test_top_5_is_there_for_more_than_5_classes_alone(tmp_path: Path) -> None:
    def names(root: Path) -> list[str]:
        task = ImageClassification().for_checkpoints(discover(root))
        return [metric.name for metric in task.metrics]

    small, large = tmp_path / "small", tmp_path / "large"
    for root, count in ((small, 5), (large, 6)):
        root.mkdir()
        folder(root, config={"model_type": "vit", "id2label": {str(label): f"c{label}" for label in range(count)}})
    assert "top-5" not in names(small)
    assert "top-5" in names(large)
    assert names(small)[0] == names(large)[0] == "accuracy"
    # The task itself stays what it was.
    assert "top-5" in [metric.name for metric in ImageClassification.metrics]


def test_options_for_timm_and_torchvision_are_refused_for_a_model_of_transformers(tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "cnn")
    for name, value in (("crop_pct", 0.9), ("interpolation", "bicubic")):
        task = ImageClassification(ImageOptions(**{name: value}))
        root = folder(tmp_path, config={"model_type": "vit", "image_size": 32})
        with pytest.raises(EngineError, match=f"`{name}` must be absent") as raised:
            task.preprocessing(discover(root), task.shape(discover(root)))
        assert raised.value.code == "invalid-task-options"


def test_clips_own_image_classifier_is_one(tmp_path: Path) -> None:
    config = CLIPConfig(**{**clip_config().to_dict(), "num_labels": 3})
    torch.manual_seed(0)
    model = CLIPForImageClassification(config).eval()
    for step in (1, 2):
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
    checkpoints, task = discover(tmp_path), ImageClassification()
    assert ImageClassification.recognises(checkpoints)
    assert task.shape(checkpoints).num_classes == 3
    ours = task.build_model(checkpoints)
    bind(ours, checkpoints, task.stored_names(ours, checkpoints)).load(checkpoints.reference)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(pixel_values=images).logits
        torch.testing.assert_close(task.logits(ours.eval(), {"pixel_values": images}), expected)
