"""Run by `test_image_libraries.py` in a process that has timm and torchvision."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from ladle_engine import average
from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.types import CheckpointSet, TensorInfo
from ladle_engine.errors import EngineError
from ladle_engine.model.binding import bind
from ladle_engine.tasks.examples import split
from ladle_engine.tasks.image_classification import ImageClassification, ImageOptions
from ladle_engine.tasks.images.processor import Overrides
from ladle_engine.tasks.images.shape import ImageShape
from ladle_engine.tasks.vision.crop_preprocessing import CropPreprocessing, scale_of
from ladle_engine.tasks.vision.named_model import classes_in_head
from ladle_engine.tasks.vision.torchvision_source import TorchvisionSource
from tests.builders import digits
from tests.polling import DEADLINE_S
from tests.tasks.doors import Doors, Result

timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision.models")

SIZES = ((40, 52), (33, 47), (64, 64), (20, 90), (300, 17), (7, 7))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize(("size", "crop_pct"), [((32, 32), 0.875), ((33, 33), 1.0), ((24, 40), 0.9), ((31, 31), 0.7)])
def test_images_are_timms_own_bit_for_bit(
    images: list[Image.Image], interpolation: str, crop_mode: str, size: tuple[int, int], crop_pct: float
) -> None:
    from timm.data import create_transform

    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    theirs = create_transform(
        (3, *size), interpolation=interpolation, crop_mode=crop_mode, crop_pct=crop_pct, mean=mean, std=std
    )
    ours = CropPreprocessing(
        size=size,
        scale=scale_of(size, crop_pct),
        interpolation=interpolation,
        crop_mode=crop_mode,
        mean=mean,
        std=std,
    )
    for image in images:
        assert torch.equal(ours.of_image(image), theirs(image))


def test_images_are_those_of_torchvisions_presets_bit_for_bit(images: list[Image.Image]) -> None:
    compared = set()
    for name in models.list_models(module=models):
        weights = next(iter(models.get_model_weights(name)))
        preset = json.dumps(weights.transforms.keywords, default=str, sort_keys=True)
        if preset in compared:
            continue
        compared.add(preset)
        source = TorchvisionSource(checkpoints=of_shapes({}), model=name)
        ours = source.preprocessing(ImageShape(channels=3, num_classes=3, class_ids=None), Overrides())
        for image in images[:4]:
            assert torch.equal(ours.of_image(image), weights.transforms()(image)), name
    assert len(compared) > 10


def test_the_number_of_classes_is_found_in_every_classifier_of_torchvision() -> None:
    for name in models.list_models(module=models):
        if name.startswith("regnet") and not name.endswith("_400mf"):
            # Built with memory, and the others have as many parts, only wider ones.
            continue
        source = TorchvisionSource(checkpoints=of_shapes({}), model=name)
        stored = source._small(37).state_dict()
        checkpoints = of_shapes({f"module.{key}": tuple(tensor.shape) for key, tensor in stored.items()})
        assert classes_in_head(source._small, checkpoints) == 37, name


FAMILIES = (
    *(
        "test_resnet",
        "vit_tiny_patch16_224",
        "convnext_atto",
        "efficientnet_lite0",
        "mobilenetv3_small_050",
        "regnetx_002",
    ),
    *("deit_tiny_distilled_patch16_224", "mixer_s32_224", "swin_tiny_patch4_window7_224", "ghostnet_050", "vgg11"),
    *("densenet121", "xcit_nano_12_p16_224", "levit_128s", "coatnet_nano_rw_224", "beit_base_patch16_224"),
)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_number_of_classes_is_found_in_classifiers_of_timm(name: str) -> None:
    with torch.device("meta"):
        stored = timm.create_model(name, num_classes=37).state_dict()
    checkpoints = of_shapes({key: tuple(tensor.shape) for key, tensor in stored.items()})
    assert ImageClassification(ImageOptions(model=f"timm:{name}")).shape(checkpoints).num_classes == 37


def of_shapes(shapes: dict[str, tuple[int, ...]]) -> CheckpointSet:
    tensors = {name: TensorInfo(shape=shape, dtype=torch.float32) for name, shape in shapes.items()}
    here = Path("/nowhere")
    return CheckpointSet(
        folder=here, checkpoints=(), tensors=tensors, config=None, side_files=(), home=here, places=(here,), root=here
    )


class Trained:
    """A folder of timm's training output: `CheckpointSaver`'s files and `args.yaml`. Not trained without images."""

    def __init__(self, folder: Path, images: Path | None = None, **changes: Any) -> None:
        from timm.utils import CheckpointSaver

        folder.mkdir(exist_ok=True)
        args = {
            **{"model": "test_resnet", "num_classes": 3, "gp": None, "img_size": None, "input_size": [3, 64, 64]},
            **{"crop_pct": None, "mean": [0.5, 0.5, 0.5], "std": None, "interpolation": "", "in_chans": None},
            **{"bn_eps": None, "model_kwargs": {}, "drop": 0.0, "data_dir": "/data", "lr": 0.1, "epochs": 3},
            **changes,
        }
        torch.manual_seed(0)
        self.model: nn.Module = timm.create_model(
            args["model"], num_classes=args["num_classes"] or 3, **(args["model_kwargs"] or {})
        )
        optimiser = torch.optim.SGD(self.model.parameters(), lr=0.1)
        saver = CheckpointSaver(
            model=self.model, optimizer=optimiser, args=argparse.Namespace(**args), checkpoint_dir=str(folder),
            recovery_dir=str(folder), max_history=3,
        )  # fmt: skip
        for epoch in range(3):
            if images is None:
                self._change()
            else:
                self._epoch(optimiser, images, args)
            saver.save_checkpoint(epoch, metric=float(epoch))
        (folder / "args.yaml").write_text(yaml.safe_dump(args, default_flow_style=False))
        self.folder = folder

    @torch.no_grad()
    def _change(self) -> None:
        for parameter in self.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)

    def _epoch(self, optimiser: torch.optim.Optimizer, images: Path, args: dict[str, Any]) -> None:
        from timm.data import resolve_data_config

        self.model.train()
        for inputs, labels in timms_loader(images, resolve_data_config(args, model=self.model), is_training=True):
            optimiser.zero_grad()
            F.cross_entropy(self.model(inputs), labels).backward()
            optimiser.step()


def timms_loader(folder: Path, config: dict[str, Any], *, is_training: bool = False) -> Any:
    """As its training script makes it."""
    from timm.data import create_dataset, create_loader

    images = create_dataset("", root=str(folder), split="validation", is_training=is_training)
    names = ("input_size", "interpolation", "mean", "std", "crop_pct")
    return create_loader(
        images, batch_size=32, is_training=is_training, num_workers=0, use_prefetcher=False, hflip=0.0,
        **{name: config[name] for name in names},
    )  # fmt: skip


def digit_folders(root: Path, part: slice) -> Path:
    """Digits as 32 x 32 pictures in class folders, whose files sort alike by name and by number."""
    images, labels = digits()
    for number in range(len(labels))[part]:
        folder = root / str(int(labels[number]))
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (images[number, 0] * 255).to(torch.uint8).numpy()
        Image.fromarray(pixels).convert("RGB").resize((32, 32)).save(folder / f"{number:05}.png")
    return root


@torch.no_grad()
def scores_of(model: nn.Module, loader: Any) -> tuple[float, float]:
    """Accuracy and loss on the select split."""
    batches = [(model.eval()(inputs), labels) for inputs, labels in loader]
    logits, labels = torch.cat([each for each, _ in batches]), torch.cat([each for _, each in batches])
    _, select = split(len(labels), 0.5, 0)
    right = float((logits[select].argmax(dim=1) == labels[select]).float().mean())
    return right, float(F.cross_entropy(logits[select], labels[select]))


# timm leaves the files of images open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_timms_training_goes_through_every_door_and_scores_the_same_in_timm(doors: Doors) -> None:
    train = digit_folders(doors.data / "digits-train", slice(0, 640))
    val = digit_folders(doors.data / "digits-val", slice(700, 1000))
    Trained(doors.data / "timm", train, num_classes=10, img_size=32, input_size=None, mean=None)
    results = doors.through_all(doors.data / "timm", val, task="image-classification")
    from timm.data import resolve_data_config

    args = yaml.safe_load((doors.data / "timm" / "args.yaml").read_text())
    for result in results:
        model = timm.create_model(
            "test_resnet", num_classes=10, checkpoint_path=str(result.folder / "model.safetensors")
        )
        accuracy, loss = scores_of(model, timms_loader(val, resolve_data_config(args, model=model)))
        assert result.winner["accuracy"] == pytest.approx(accuracy, abs=1e-4)
        assert result.winner["loss"] == pytest.approx(loss, abs=1e-4)
        assert result.winner["top-5"] >= accuracy


def test_a_model_of_torchvision_goes_through_every_door_and_scores_the_same_there(doors: Doors) -> None:
    val = digit_folders(doors.data / "digits-torchvision", slice(700, 800))
    folder = doors.data / "torchvision"
    folder.mkdir()
    torch.manual_seed(0)
    model = models.get_model("squeezenet1_1", num_classes=10)
    for step in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.001)
        torch.save(
            {"model": model.state_dict(), "epoch": step, "args": argparse.Namespace(lr=0.1)},
            folder / f"model_{step}.pth",
        )
    options = {"model": "torchvision:squeezenet1_1", "image_size": 64}
    # Nothing in the folder says which model it is, so the task must be named too.
    average(
        folder, val, output=doors.data.parent / "torchvision-library", task="image-classification",
        task_options=options, method="uniform",
    )  # fmt: skip
    with doors.stack.client() as client:
        task = {"name": "image-classification", "options": options}
        served = client.submit(folder, val, task=task, method={"name": "uniform"}).result(timeout=DEADLINE_S)
    folders = [doors.data.parent / "torchvision-library", Path(served.folder)]
    results = [Result(folder=each, report=json.loads((each / "report.json").read_text())) for each in folders]
    from torchvision.datasets import ImageFolder
    from torchvision.transforms._presets import ImageClassification as Preset

    images = ImageFolder(str(val), transform=Preset(crop_size=64, resize_size=73))
    for result in results:
        model.load_state_dict(load_file(result.folder / "model.safetensors"))
        accuracy, loss = scores_of(model, torch.utils.data.DataLoader(images, batch_size=32))
        assert result.winner["accuracy"] == pytest.approx(accuracy, abs=1e-4)
        assert result.winner["loss"] == pytest.approx(loss, abs=1e-4)


def loaded(task: ImageClassification, folder: Path) -> nn.Module:
    """The last checkpoint in the task's own model."""
    checkpoints = discover(folder)
    model = task.build_model(checkpoints)
    binding = bind(model, checkpoints, task.stored_names(model, checkpoints))
    binding.load(checkpoints.reference)
    return model.eval()


@torch.no_grad()
def same_logits(one: nn.Module, other: nn.Module, side: int = 64) -> None:
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    assert torch.equal(one.eval()(images), other.eval()(images))


def test_a_folder_of_timms_training_is_recognised_and_built_from_its_args(tmp_path: Path) -> None:
    trained = Trained(tmp_path)
    checkpoints = discover(tmp_path)
    assert ImageClassification.recognises(checkpoints)
    same_logits(loaded(ImageClassification(), tmp_path), trained.model)
    task = ImageClassification()
    shape = task.shape(checkpoints)
    made = task.preprocessing(checkpoints, shape)
    assert (shape.channels, shape.num_classes, made.size) == (3, 3, (64, 64))
    from timm.data import create_transform, resolve_data_config

    args = yaml.safe_load((tmp_path / "args.yaml").read_text())
    theirs = create_transform(**resolve_data_config(args, model=trained.model))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 99, 3), dtype=np.uint8))
    assert torch.equal(made.of_image(image), theirs(image))


def test_the_head_says_how_many_classes_where_the_args_do_not(tmp_path: Path) -> None:
    Trained(tmp_path, num_classes=None)
    assert ImageClassification().shape(discover(tmp_path)).num_classes == 3


def test_arguments_of_the_model_and_weights_tags_are_taken(tmp_path: Path) -> None:
    trained = Trained(
        tmp_path, model="vit_tiny_patch16_224.augreg_in21k_ft_in1k", model_kwargs={"img_size": 64}, input_size=None,
        img_size=64,
    )  # fmt: skip
    same_logits(loaded(ImageClassification(), tmp_path), trained.model)
    # As the weights that it began with: this tag's mean is 0.5.
    preset: Any = ImageClassification().preprocessing(
        discover(tmp_path), ImageClassification().shape(discover(tmp_path))
    )
    assert (preset.size, preset.mean, preset.interpolation) == ((64, 64), (0.5, 0.5, 0.5), "bicubic")


def test_a_folder_of_timms_hub_layout_is_recognised_with_its_labels(tmp_path: Path) -> None:
    from timm.models import save_for_hf

    model = timm.create_model("test_resnet", num_classes=2)
    for step in (1, 2):
        save_for_hf(model, tmp_path / f"checkpoint-{step}", {"label_names": ["ant", "bee"]}, safe_serialization=True)
    checkpoints = discover(tmp_path)
    assert ImageClassification.recognises(checkpoints)
    shape = ImageClassification().shape(checkpoints)
    assert (shape.num_classes, shape.class_ids) == (2, {"ant": 0, "bee": 1})
    same_logits(loaded(ImageClassification(), tmp_path), model)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_a_model_of_torchvision_is_built_by_name(tmp_path: Path, name: str) -> None:
    model = models.get_model(name, num_classes=4)
    for step in (1, 2):
        torch.save({"model": model.state_dict(), "epoch": step}, tmp_path / f"model_{step}.pth")
    task = ImageClassification(ImageOptions(model=f"torchvision:{name}"))
    assert task.shape(discover(tmp_path)).num_classes == 4
    same_logits(loaded(task, tmp_path), model)


def test_channels_and_size_are_found_where_only_the_tensors_and_the_option_say_them(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=3, in_chans=1, img_size=32)
    for step in (1, 2):
        torch.save(model.state_dict(), tmp_path / f"model_{step}.pth")
    task = ImageClassification(ImageOptions(model="timm:test_vit", image_size=32))
    shape = task.shape(discover(tmp_path))
    assert (shape.channels, shape.num_classes) == (1, 3)
    made = task.preprocessing(discover(tmp_path), shape).of_image(Image.new("L", (40, 50), 128))
    ours = loaded(task, tmp_path)
    with torch.no_grad():
        assert torch.equal(ours(made[None]), model.eval()(made[None]))


def refusal(folder: Path, **options: Any) -> str:
    task = ImageClassification.from_options(options)
    with pytest.raises(EngineError) as raised:
        task.build_model(discover(folder))
    assert raised.value.code in ("invalid-task-options", "model-mismatch")
    return raised.value.message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Trained(tmp_path_factory.mktemp("timm")).folder


def test_a_name_that_both_libraries_have_is_refused_and_one_that_neither_has_is_helped(folder: Path) -> None:
    assert "`timm:resnet18` or `torchvision:resnet18`" in refusal(folder, model="resnet18")
    assert "`resnet18`" in refusal(folder, model="timm:resnet_18")
    assert "Did you mean" in refusal(folder, model="resnt18")
    assert "`mobilenet_v3_small`" in refusal(folder, model="torchvision:mobilenet_v3_smal")
    assert "timm:NAME" in refusal(folder, model="keras:resnet18")
    assert "`timm`" not in refusal(folder, model="timm:hf-hub:someone/model")
    # Of one library alone.
    assert isinstance(ImageClassification(ImageOptions(model="test_resnet")).build_model(discover(folder)), nn.Module)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "vit_giant_patch14_224"}, "must describe the model of these checkpoints"),
        ({"model": "no_such_model"}, "must be a model that timm has, but is `no_such_model`"),
        ({"num_classes": 5}, "`num_classes` in `args.yaml` must be 3"),
        ({"num_classes": 10**9}, "`num_classes` in `args.yaml` must be"),
        ({"num_classes": "3"}, "must be a whole number"),
        ({"model_kwargs": {"checkpoint_path": "/etc/passwd"}}, "without `checkpoint_path`"),
        ({"model_kwargs": {"no_such_argument": 1}}, "`test_resnet` fails"),
        ({"model_kwargs": {"layers": [10**6, 1, 1, 1]}}, "must describe"),
    ],
)
def test_args_that_lie_are_refused_before_anything_is_built(
    folder: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    for file in folder.glob("checkpoint-*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    args = yaml.safe_load((folder / "args.yaml").read_text())
    (tmp_path / "args.yaml").write_text(yaml.safe_dump({**args, **changes}))
    assert words in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop_pct": 1e-9}, "`crop_pct`"),
        ({"input_size": [3, 10**6, 8]}, "`input_size`"),
        ({"mean": [float("nan")] * 3}, "`mean`"),
        ({"std": [0.0] * 3}, "`std`"),
        ({"interpolation": "random"}, "`interpolation`"),
    ],
)
def test_a_data_config_that_lies_is_refused(folder: Path, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    for file in folder.glob("checkpoint-*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    args = yaml.safe_load((folder / "args.yaml").read_text())
    (tmp_path / "args.yaml").write_text(yaml.safe_dump({**args, **changes}))
    checkpoints, task = discover(tmp_path), ImageClassification()
    with pytest.raises(EngineError, match=re.escape(words)):
        task.preprocessing(checkpoints, ImageShape(channels=3, num_classes=3, class_ids=None))


def test_options_stand_in_for_the_data_config(folder: Path) -> None:
    checkpoints = discover(folder)
    shape = ImageShape(channels=3, num_classes=3, class_ids=None)
    task = ImageClassification.from_options({"image_size": 32, "crop_pct": 1.0, "interpolation": "box"})
    made: Any = task.preprocessing(checkpoints, shape)
    assert (made.size, made.scale, made.interpolation) == ((32, 32), (32, 32), "box")
    kept: Any = ImageClassification.from_options({"image_size": 32}).preprocessing(checkpoints, shape)
    # As large a share as 64 of 67, timm's for this model.
    assert kept.scale == (33, 33)


def test_floating_arrays_are_ready_for_the_model(folder: Path) -> None:
    checkpoints = discover(folder)
    ready: Tensor = torch.randn(2, 3, 64, 64)
    made = ImageClassification().preprocessing(checkpoints, ImageClassification().shape(checkpoints))
    assert torch.equal(made.of_array(ready), ready)
