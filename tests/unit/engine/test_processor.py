"""Images reach the model as the folder's own processor makes them, bit for bit; options and refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ladle_engine import EngineError, average, discover
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.tasks.base import DataSet
from ladle_engine.tasks.image_classification import ImageClassification
from ladle_engine.tasks.images.data_sets import DecodedImages, ImageShape

transformers = pytest.importorskip("transformers")

CONFIG = {"model_type": "vit", "id2label": {"0": "ant", "1": "bee"}, "image_size": 32}
SIZES = ((40, 52), (33, 47), (64, 64), (20, 90))
GENERATOR = np.random.default_rng(0)

PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}}),
    "vit, bicubic": ("ViTImageProcessorPil", {"size": {"height": 24, "width": 32}, "resample": 3}),
    "vit, not normalised": ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}, "do_normalize": False}),
    "vit, not rescaled": ("ViTImageProcessorPil", {"do_rescale": False, "image_mean": [127.0] * 3}),
    "deit": ("DeiTImageProcessorPil", {"size": 36, "crop_size": 32}),
    "beit": ("BeitImageProcessorPil", {"size": 36, "crop_size": 30, "do_center_crop": True}),
    "convnext": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_pct": 0.8}),
    "convnext, large": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 384}}),
    "clip": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 34}, "crop_size": 32}),
    "dinov2": ("BitImageProcessorPil", {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 28}}),
    "siglip": ("SiglipImageProcessorPil", {"size": {"height": 32, "width": 32}}),
    "mobilenet": ("MobileNetV2ImageProcessorPil", {"size": {"shortest_edge": 36}, "crop_size": 32}),
    "mobilevit": ("MobileViTImageProcessorPil", {"size": {"shortest_edge": 36}, "crop_size": 32}),
    "efficientnet": ("EfficientNetImageProcessorPil", {"size": 32, "rescale_offset": True, "rescale_factor": 2 / 255}),
    "poolformer": ("PoolFormerImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": 32, "crop_pct": 0.9}),
    "levit": ("LevitImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "perceiver": ("PerceiverImageProcessorPil", {"crop_size": 36, "size": 32}),
    "pvt": ("PvtImageProcessorPil", {"size": 32}),
    "segformer": ("SegformerImageProcessorPil", {"size": 32}),
    "crop alone": ("ViTImageProcessorPil", {"do_resize": False, "do_center_crop": True, "crop_size": 48}),
}


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour images of several sizes in two classes."""
    root = tmp_path_factory.mktemp("val")
    for number, (height, width) in enumerate(SIZES):
        folder = root / ("ant", "bee")[number % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(GENERATOR.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return root


def checkpoints(
    root: Path, processor: Mapping[str, Any] | None, name: str = "preprocessor_config.json", **config: Any
) -> Path:
    """A folder with a processor's file."""
    for step in (1, 2):
        save_file({"w": torch.full((300, 9), float(step))}, root / f"step-{step}.safetensors")
    (root / "config.json").write_text(json.dumps(CONFIG | config))
    if processor is not None:
        (root / name).write_text(json.dumps(processor))
    return root


def opened(folder: Path, val: Path, **options: Any) -> DataSet:
    return ImageClassification.from_options(options).open_data(val, discover(folder))


def pixel_values(folder: Path, val: Path, **options: Any) -> Tensor:
    data = opened(folder, val, **options)
    return data.batch(torch.arange(len(data)))["pixel_values"]


def by_transformers(folder: Path, images: Sequence[Image.Image], **options: Any) -> Tensor:
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    values: Tensor = processor(images=images, return_tensors="pt", **options)["pixel_values"]
    return values


def images_of(val: Path, mode: str | None = "RGB") -> list[Image.Image]:
    return [Image.open(path) if mode is None else Image.open(path).convert(mode) for path in sorted(val.glob("*/*"))]


def refused(code: str, folder: Path, val: Path, **options: Any) -> str:
    with pytest.raises(EngineError) as caught:
        pixel_values(folder, val, **options)
    assert caught.value.code == code, caught.value
    return str(caught.value)


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_batch_is_what_the_saved_processor_makes_bit_for_bit(tmp_path: Path, val: Path, name: str) -> None:
    type_name, values = PROCESSORS[name]
    folder = checkpoints(tmp_path, None)
    getattr(transformers, type_name)(**values).save_pretrained(folder)
    ours = pixel_values(folder, val)
    theirs = by_transformers(folder, images_of(val))
    assert ours.dtype == torch.float32
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("model_type", "values"),
    [
        ("vit", {"size": 32}),
        ("deit", {"size": 36, "crop_size": 32}),
        ("resnet", {"size": 32}),
        ("convnextv2", {"size": {"shortest_edge": 32}, "crop_pct": 0.75}),
        ("swin", {"size": {"height": 32, "width": 32}}),
        ("swinv2", {"feature_extractor_type": "ViTFeatureExtractor", "size": 32}),
        ("levit", {"image_processor_type": "LevitImageProcessorFast", "size": 32, "crop_size": 32}),
        ("dinov2_with_registers", {"image_processor_type": "BitImageProcessor", "size": 36, "crop_size": 32}),
    ],
    ids=str,
)
def test_old_files_and_files_without_a_type_are_read_as_transformers_reads_them(
    tmp_path: Path, val: Path, model_type: str, values: dict[str, Any]
) -> None:
    folder = checkpoints(tmp_path, values, model_type=model_type)
    assert torch.equal(pixel_values(folder, val), by_transformers(folder, images_of(val)))


def test_a_processor_inside_processor_config_json_counts_first(tmp_path: Path, val: Path) -> None:
    nested = {"image_processor": {"image_processor_type": "ViTImageProcessor", "size": 24}, "processor_class": "X"}
    folder = checkpoints(tmp_path, {"image_processor_type": "ViTImageProcessor", "size": 32})
    checkpoints(tmp_path, nested, "processor_config.json")
    assert pixel_values(folder, val).shape[-2:] == (24, 24)
    assert torch.equal(pixel_values(folder, val), by_transformers(folder, images_of(val)))
    checkpoints(tmp_path, {"processor_class": "X"}, "processor_config.json")
    assert pixel_values(folder, val).shape[-2:] == (32, 32), "one that holds no image processor says nothing"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that are stored in every mode that a file can have."""
    root = tmp_path_factory.mktemp("odd")
    (root / "ant").mkdir()
    colour = Image.fromarray(GENERATOR.integers(0, 256, (40, 44, 4), dtype=np.uint8))
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
        colour.convert("RGB" if mode == "P" else "RGBA").convert(mode).save(root / "ant" / f"{mode}.png")
    colour.convert("P").save(root / "ant" / "p-transparent.png", transparency=bytes(range(256)))
    colour.convert("CMYK").save(root / "ant" / "cmyk.JPG", quality=95)
    colour.save(root / "ant" / "alpha.webp", lossless=True)
    colour.convert("RGB").save(root / "ant" / "grey.bmp")
    return root


def test_images_of_any_mode_become_colour_as_the_processor_says_or_by_dropping_what_is_more(
    tmp_path: Path, odd: Path
) -> None:
    folder = checkpoints(tmp_path, {"image_processor_type": "ViTImageProcessor", "size": 32})
    stored = [image.convert("RGBA") if "transparency" in image.info else image for image in images_of(odd, mode=None)]
    colour = [image.convert("RGB") for image in stored]
    assert torch.equal(pixel_values(folder, odd), by_transformers(folder, colour))
    converting = {"image_processor_type": "CLIPImageProcessor", "size": 32, "crop_size": 32, "do_convert_rgb": True}
    folder = checkpoints(tmp_path, converting)
    theirs = by_transformers(folder, images_of(odd, mode=None))
    assert torch.equal(pixel_values(folder, odd), theirs)
    assert not torch.equal(theirs, by_transformers(folder, colour)), "it lays transparent images on white"


def test_a_grey_model_gets_grey_images(tmp_path: Path, odd: Path) -> None:
    values = {"image_processor_type": "ViTImageProcessor", "size": 32, "image_mean": [0.4], "image_std": [0.3]}
    folder = checkpoints(tmp_path, values, num_channels=1)
    grey = [
        (image.convert("RGBA") if "transparency" in image.info else image).convert("L")
        for image in images_of(odd, mode=None)
    ]
    ours = pixel_values(folder, odd)
    assert ours.shape[1] == 1
    assert torch.equal(ours, by_transformers(folder, grey))
    folder = checkpoints(tmp_path, {"image_processor_type": "ViTImageProcessor"}, num_channels=1)
    assert "one number for each of 1 channels, from -1e+06 to 1e+06, but is (0.5, 0.5, 0.5)" in refused(
        "model-mismatch", folder, odd
    )
    assert pixel_values(folder, odd, mean=[0.5], std=[0.5]).shape[1] == 1
    folder = checkpoints(tmp_path, values | {"do_convert_rgb": True}, num_channels=1)
    refused("model-mismatch", folder, odd)


def test_photographs_are_turned_upright_as_their_exif_says(tmp_path: Path) -> None:
    upright = Image.fromarray(GENERATOR.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    (tmp_path / "val" / "ant").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "val" / "ant" / "turned.png", exif=exif)
    folder = checkpoints(tmp_path, {"image_processor_type": "ViTImageProcessor", "size": 32})
    assert torch.equal(pixel_values(folder, tmp_path / "val"), by_transformers(folder, [upright]))


def test_sixteen_bits_per_pixel_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    (tmp_path / "val" / "ant").mkdir(parents=True)
    deep = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40) * 40
    Image.fromarray(deep).save(tmp_path / "val" / "ant" / "deep.png")
    folder = checkpoints(tmp_path, {"image_processor_type": "ViTImageProcessor", "size": 32})
    flat = Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
    assert torch.equal(pixel_values(folder, tmp_path / "val"), by_transformers(folder, [flat]))


def test_arrays_of_bytes_go_through_the_processor_as_files_do(tmp_path: Path) -> None:
    folder = checkpoints(tmp_path, {"image_processor_type": "DeiTImageProcessor", "size": 36, "crop_size": 32})
    images = GENERATOR.integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    theirs = by_transformers(folder, [Image.fromarray(image) for image in images])
    np.savez(tmp_path / "set.npz", images=images, labels=np.array([0, 1, 0]))
    assert torch.equal(pixel_values(folder, tmp_path / "set.npz"), theirs)
    (tmp_path / "sets").mkdir()
    first = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    save_file({"images": first, "labels": torch.tensor([0, 1, 0])}, tmp_path / "sets" / "set.safetensors")
    assert torch.equal(pixel_values(folder, tmp_path / "sets" / "set.safetensors"), theirs)


def test_floating_arrays_have_been_through_the_processor_already(tmp_path: Path) -> None:
    folder = checkpoints(tmp_path, {"image_processor_type": "ViTImageProcessor", "size": 32})
    (tmp_path / "sets").mkdir()
    normalised = torch.randn(4, 3, 32, 32)
    np.savez(tmp_path / "sets" / "a.npz", pixel_values=normalised.numpy(), labels=np.array([0, 1, 0, 1]))
    data = opened(folder, tmp_path / "sets" / "a.npz")
    assert torch.equal(data.batch(torch.arange(4))["pixel_values"], normalised)
    assert data.remarks == ()
    raw = torch.rand(4, 3, 32, 32)
    np.savez(tmp_path / "sets" / "b.npz", images=raw.numpy(), labels=np.array([0, 1, 0, 1]))
    (remark,) = opened(folder, tmp_path / "sets" / "b.npz").remarks
    assert "`mean` and `std`" in remark
    options = {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 4.0]}
    data = opened(folder, tmp_path / "sets" / "b.npz", **options)
    expected = (raw - torch.tensor(options["mean"]).view(3, 1, 1)) / torch.tensor(options["std"]).view(3, 1, 1)
    assert torch.equal(data.batch(torch.arange(4))["pixel_values"], expected)
    assert data.remarks == ()


def test_options_stand_in_for_the_processors_own_values(tmp_path: Path, val: Path) -> None:
    folder = checkpoints(tmp_path, {"image_processor_type": "DeiTImageProcessor", "size": 36, "crop_size": 32})
    images = images_of(val)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    theirs = by_transformers(folder, images, image_mean=mean, image_std=std)
    assert torch.equal(pixel_values(folder, val, mean=mean, std=std), theirs)
    theirs = by_transformers(folder, images, image_mean=mean)
    assert torch.equal(pixel_values(folder, val, mean=mean), theirs), "the other one is still the processor's"
    square = {"height": 16, "width": 16}
    theirs = by_transformers(folder, images, size={"height": 18, "width": 18}, crop_size=square)
    assert torch.equal(pixel_values(folder, val, image_size=16), theirs), "the crop's share is kept"
    assert torch.equal(pixel_values(folder, val, image_size=32), by_transformers(folder, images))


@pytest.mark.parametrize("name", PROCESSORS)
def test_image_size_is_the_height_and_width_that_the_model_gets(tmp_path: Path, val: Path, name: str) -> None:
    type_name, values = PROCESSORS[name]
    getattr(transformers, type_name)(**values).save_pretrained(checkpoints(tmp_path, None))
    assert pixel_values(tmp_path, val, image_size=16).shape == (len(SIZES), 3, 16, 16)


def test_a_mean_without_a_standard_deviation_is_refused_where_nothing_completes_it(tmp_path: Path, val: Path) -> None:
    plain = checkpoints(tmp_path, None)
    for options, absent in (({"mean": [0.5] * 3}, "std"), ({"std": [0.5] * 3}, "mean")):
        message = refused("invalid-task-options", plain, val, **options)
        assert f"must be given together where no processor lies beside the checkpoints, but `{absent}`" in message
    flat = checkpoints(tmp_path, {"image_processor_type": "ViTImageProcessor", "do_normalize": False})
    assert "`std` is absent" in refused("invalid-task-options", flat, val, mean=[0.5] * 3)
    assert pixel_values(flat, val, mean=[0.5] * 3, std=[0.5] * 3).min() < 0
    never = checkpoints(tmp_path, {"image_processor_type": "MobileViTImageProcessor"})
    assert "does not use" in refused("invalid-task-options", never, val, mean=[0.5] * 3, std=[0.5] * 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"std": [0.0]}, "`std` of task `image-classification` must be numbers from 1e-06 to 1e+06, but is [0.0]"),
        ({"std": [0.5, -0.5, 0.5]}, "`std` of task `image-classification` must be numbers from 1e-06 to 1e+06"),
        ({"std": []}, "`std` of task `image-classification` must be numbers from 1e-06 to 1e+06, but is []"),
        (
            {"mean": [float("nan")] * 3},
            "`mean` of task `image-classification` must be numbers from -1e+06 to 1e+06, but is [nan",
        ),
        ({"mean": [0.1]}, "`mean` must have one number for each of 3 channels, but is [0.1]"),
        ({"image_size": 0}, "`image_size` of task `image-classification` must be at least 1, but is 0"),
        ({"image_size": 10**9}, "`image_size` of task `image-classification` must be at most 4096"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named_with_its_rule_and_value(
    tmp_path: Path, val: Path, options: dict[str, Any], words: str
) -> None:
    assert words in refused("invalid-task-options", checkpoints(tmp_path, None), val, **options)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image_std": [0.0] * 3}, r"`image_std` .* from 1e-06 to 1e\+06, but is .0\.0"),
        ({"image_std": [1e-300] * 3}, r"`image_std` .* from 1e-06 to 1e\+06, but is .1e-300"),
        ({"image_std": [0.5, 0.5]}, r"`image_std` .* for each of 3 channels"),
        ({"image_std": ["a"] * 3}, r"`image_std` "),
        ({"image_mean": [0.5]}, r"`image_mean` .* 3 channels, .*, but is .0\.5"),
        ({"image_mean": [1e300] * 3}, r"`image_mean` .* to 1e\+06, but is .1e\+300"),
        ({"rescale_factor": 1e300}, "can apply to an image"),
        ({"size": 0}, "`size` .* whole numbers of at least 1, but is 0"),
        ({"size": {"height": -3, "width": 32}}, "`size` .* whole numbers of at least 1"),
        ({"size": {"height": 32.5, "width": 32}}, "`size` .* whole numbers of at least 1"),
        ({"size": 1_000_000}, "`size` .* at most 4096, but is 1000000"),
        ({"size": {"shortest_edge": 10**30}}, "`size` .* at most 4096"),
        ({"size": "32"}, "can apply to an image"),
        ({"size": {"breadth": 32}}, "can apply to an image"),
        ({"crop_size": [10**9, 1], "do_center_crop": True}, "`crop_size` .* at most 4096"),
        ({"size_divisor": 10**9}, "`size_divisor` .* at most 4096"),
        ({"image_processor_type": "PoolFormerImageProcessor", "crop_pct": 1e-9}, "`crop_pct` .* at most 4096"),
        ({"image_processor_type": "PoolFormerImageProcessor", "crop_pct": 0}, "`crop_pct` .* above 0"),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": "a"}, "`crop_pct` .* above 0"),
        ({"resample": 99}, "can apply to an image"),
        ({"rescale_factor": "a"}, "can apply to an image"),
        ({"preprocess": "a"}, "can apply to an image"),
        (
            {"image_processor_type": "MineImageProcessor"},
            r"fails \(its `image_processor_type` is none that this version",
        ),
        ({"image_processor_type": 7}, "can apply to an image"),
        ({"image_processor_type": "AutoImageProcessor"}, "can apply to an image"),
        ({"image_processor_type": "AutoModel"}, "can apply to an image"),
        ({"image_processor_type": "PPLCNetImageProcessor"}, "can apply to an image.*torchvision"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "`pixel_values` alone"),
        ({"image_processor_type": "ImageGPTImageProcessor"}, "gives input_ids"),
    ],
    ids=str,
)
def test_a_wrong_value_in_the_processors_file_is_named_with_the_file(
    tmp_path: Path, val: Path, values: dict[str, Any], words: str
) -> None:
    folder = checkpoints(tmp_path, {"image_processor_type": "ViTImageProcessor", "size": 32, **values})
    message = refused("model-mismatch", folder, val)
    assert re.search(words, message), message
    assert "preprocessor_config.json" in message


@pytest.mark.parametrize("text", ["{", "[]", "\xff", "[" * 100_000], ids=["open", "list", "latin", "deep"])
def test_a_processors_file_that_is_no_json_object_is_refused(tmp_path: Path, val: Path, text: str) -> None:
    folder = checkpoints(tmp_path, None)
    (folder / "preprocessor_config.json").write_bytes(text.encode("latin-1"))
    assert "preprocessor_config.json` must be a JSON" in refused("model-mismatch", folder, val)


def test_code_that_a_processor_names_is_never_run(tmp_path: Path, val: Path) -> None:
    code = f"open({str(tmp_path / 'canary')!r}, 'w')"
    values = {"auto_map": {"AutoImageProcessor": "mine.Mine"}, "size": 32}
    folder = checkpoints(tmp_path, values)
    (folder / "mine.py").write_text(code)
    assert torch.equal(pixel_values(folder, val), by_transformers(folder, images_of(val), size=32))
    checkpoints(tmp_path, values | {"image_processor_type": "Mine"}, model_type="mine")
    refused("model-mismatch", folder, val)
    assert not (tmp_path / "canary").exists()


def test_a_model_of_ones_own_has_a_processor_that_resizes_crops_and_normalises(tmp_path: Path, val: Path) -> None:
    values = {"size": 36, "do_center_crop": True, "crop_size": 32, "image_mean": [0.1] * 3, "image_std": [0.5] * 3}
    folder = checkpoints(tmp_path, values, model_type="mine")
    theirs = transformers.ViTImageProcessorPil(**values)(images=images_of(val), return_tensors="pt")["pixel_values"]
    assert torch.equal(pixel_values(folder, val), theirs)
    folder = checkpoints(tmp_path, {"size": 32}, model_type="mine")
    assert pixel_values(folder, val).min() >= 0, "normalised only where the file says how"
    folder = checkpoints(tmp_path, {"size": 32, "crop_pct": 0.9}, model_type="mine")
    assert "has no `crop_pct`" in refused("model-mismatch", folder, val)


def test_images_that_come_out_with_several_shapes_are_refused_with_two_of_them(tmp_path: Path, val: Path) -> None:
    values = {"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 32}}
    message = refused("invalid-data", checkpoints(tmp_path, values), val)
    assert "Give the task option `image_size`" in message
    assert "0.png" in message
    assert "(3, 32, 41)" in message
    assert pixel_values(tmp_path, val, image_size=32).shape[-2:] == (32, 32)


def test_a_thin_image_that_would_become_a_huge_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val" / "ant").mkdir(parents=True)
    Image.new("RGB", (100_000, 2)).save(tmp_path / "val" / "ant" / "thin.png")
    values = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}}
    message = refused("invalid-data", checkpoints(tmp_path, values), tmp_path / "val")
    assert "at most 334 times as long as wide" in message
    assert "thin.png" in message


@pytest.mark.parametrize("name", ["vit", "deit", "convnext", "clip", "levit", "efficientnet"])
def test_images_of_a_few_pixels_are_images_too(tmp_path: Path, name: str) -> None:
    """transformers guesses at channels where an image has 1, 3 or 4 rows or columns."""
    type_name, values = PROCESSORS[name]
    getattr(transformers, type_name)(**values).save_pretrained(checkpoints(tmp_path, None))
    (tmp_path / "val" / "ant").mkdir(parents=True)
    for height, width in ((1, 1), (1, 3), (3, 3), (3, 4), (4, 1)):
        pixels = GENERATOR.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "val" / "ant" / f"{height}{width}.png")
    assert torch.equal(pixel_values(tmp_path, tmp_path / "val"), by_transformers(tmp_path, images_of(tmp_path / "val")))


def test_without_a_processor_images_are_resized_to_the_models_size_and_no_more(tmp_path: Path, val: Path) -> None:
    folder = checkpoints(tmp_path, None)
    resized = [np.array(image.resize((32, 32), Image.Resampling.BILINEAR)) for image in images_of(val)]
    expected = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(torch.float32) / 255
    assert torch.equal(pixel_values(folder, val), expected)
    folder = checkpoints(tmp_path, None, image_size=None, vision_config={"image_size": 24})
    assert pixel_values(folder, val).shape[-2:] == (24, 24), "where models of text and images have it"
    folder = checkpoints(tmp_path, None, image_size=None)
    assert pixel_values(folder, val).shape[-2:] == SIZES[0], "else to that of the first"


def test_a_model_that_takes_images_of_another_size_says_so_before_anything_is_trained(
    tmp_path: Path, val: Path
) -> None:
    model = transformers.ViTForImageClassification(small(transformers.ViTConfig))
    for step in (1, 2):
        model.save_pretrained(tmp_path / "run" / f"checkpoint-{step}")
        with torch.no_grad():
            model.classifier.bias.add_(0.1)
    transformers.ViTImageProcessorPil(size=24).save_pretrained(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(EngineError, match=r"must take a batch of the shape \(2, 3, 24, 24\), but says: .*24.*32"):
        average(tmp_path / "run", val, output=tmp_path / "out")


def small(config_type: Any) -> Any:
    return config_type(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16,
        id2label={0: "ant", 1: "bee"}, label2id={"ant": 0, "bee": 1},
    )  # fmt: skip


def test_a_deit_that_resizes_to_36_and_crops_to_32_scores_as_it_does_in_transformers(tmp_path: Path, val: Path) -> None:
    torch.manual_seed(0)
    model = transformers.DeiTForImageClassification(small(transformers.DeiTConfig))
    for step in (1, 2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / "run" / f"checkpoint-{step}")
        processor = transformers.DeiTImageProcessorPil(size=36, crop_size=32)
        processor.save_pretrained(tmp_path / "run" / f"checkpoint-{step}")
    outcome = average(tmp_path / "run", val, output=tmp_path / "out", method="uniform", metric="loss")
    from ladle_engine.tasks.examples import split

    _, select = split(len(SIZES), 0.5, 0)
    written = transformers.DeiTForImageClassification.from_pretrained(outcome.folder).eval()
    with torch.no_grad():
        logits = written(by_transformers(outcome.folder, images_of(val))[select]).logits
    labels = torch.tensor([0, 0, 1, 1])[select]
    score = next(score for score in outcome.candidates if score.method == outcome.method)
    expected = float(torch.nn.functional.cross_entropy(logits, labels))
    assert score.select["loss"] == pytest.approx(expected, abs=1e-5)


def test_what_a_batch_holds_does_not_depend_on_what_is_kept_nor_on_threads(
    tmp_path: Path, val: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints(tmp_path, {"image_processor_type": "ViTImageProcessor", "size": 32})
    expected = by_transformers(folder, images_of(val))
    size = expected[0].nbytes
    for threads, room in ((1, 0), (4, 0), (4, size - 1), (4, 2 * size), (1, 2 * size + 1), (4, 1 << 30)):
        monkeypatch.setattr("ladle_engine.tasks.images.data_sets.num_threads", lambda threads=threads: threads)
        data = opened(folder, val)
        assert isinstance(data, DecodedImages)
        data.keep(room)
        for indices in ([3, 1], [0, 1, 2, 3], [2, 2, 0], [3, 2, 1, 0]):
            assert torch.equal(data.batch(torch.tensor(indices))["pixel_values"], expected[indices])
        kept = sum(image.nbytes for image in data._kept.values())
        assert kept == min(room // size, len(SIZES)) * size, "as many as fit, and never more"


def test_an_image_that_the_processor_fails_on_is_named(
    tmp_path: Path, val: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints(tmp_path, {"image_processor_type": "ViTImageProcessor", "size": 32})
    data = opened(folder, val)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise KeyError("height")

    monkeypatch.setattr(transformers.ViTImageProcessorPil, "resize", fail)
    with pytest.raises(EngineError, match=r"bee/1\.png` must be an image that can be prepared.*KeyError") as caught:
        data.batch(torch.tensor([2, 3]))
    assert caught.value.code == "invalid-data"


def test_more_classes_than_the_checkpoints_have_numbers_are_refused(tmp_path: Path, val: Path) -> None:
    class Plugin(ImageClassification):
        def shape(self, checkpoints: CheckpointSet) -> ImageShape:
            return ImageShape(channels=3, num_classes=100_000_000, class_ids=None)

    with pytest.raises(EngineError, match="hold 2,700 numbers, but describes 100,000,000 classes"):
        Plugin.from_options({}).open_data(val, discover(checkpoints(tmp_path, None)))


def test_kept_images_are_decoded_once(tmp_path: Path, val: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints(tmp_path, None)
    data = opened(folder, val)
    assert isinstance(data, DecodedImages)
    data.keep(1 << 30)
    first = data.batch(torch.arange(4))["pixel_values"]
    monkeypatch.setattr("ladle_engine.tasks.images.data_sets.decode", None)
    assert torch.equal(data.batch(torch.arange(4))["pixel_values"], first)
