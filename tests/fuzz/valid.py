"""Folders that a job takes: what hostile ones are made from."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import pickle
import tempfile
import warnings
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from tests.fuzz.forms import Files, as_json, npz

CLASSES = ("cat", "dog", "eel")
SIDE = 8
EXAMPLES = 12


def state(number: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {"w": torch.randn(4, 3, generator=generator), "b": torch.full((), float(number)), "n": torch.tensor([7, 8])}


def saved(value: Any, *, legacy: bool = False) -> bytes:
    """As `torch.save` writes it."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@functools.cache
def checkpoint() -> bytes:
    """The first of two checkpoints, for folders in which the second is hostile."""
    return save(state(1), {"format": "pt"})


def beside(name: str, content: bytes) -> Files:
    """A hostile checkpoint after a good one."""
    return {"step-1.safetensors": checkpoint(), name: content}


@functools.cache
def plain() -> Files:
    return beside("step-2.safetensors", save(state(2), {"format": "pt"}))


@functools.cache
def pickles() -> Files:
    whole = {"state_dict": state(2), "epoch": 3, "args": {"lr": 0.1, "betas": (0.9, 0.99)}, "best": torch.tensor(0.5)}
    return {"step-1.pt": saved(state(1)), "step-2.pt": saved(whole)}


@functools.cache
def old_pickles() -> Files:
    return {"step-1.pt": saved(state(1)), "step-2.pt": saved({"model": state(2)}, legacy=True)}


def index(*names: str) -> dict[str, Any]:
    return {"metadata": {"total_size": 64}, "weight_map": dict(zip(("w", "b", "n"), names * 3, strict=False))}


@functools.cache
def shards() -> Files:
    files: dict[str, bytes] = {"checkpoint-1/model.safetensors": checkpoint()}
    for number, name in enumerate(("w", "b"), start=1):
        files[f"checkpoint-2/model-0000{number}-of-00002.safetensors"] = save(
            {key: value for key, value in state(2).items() if (key == "w") == (name == "w")}
        )
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    files["checkpoint-2/model.safetensors.index.json"] = as_json(
        {"metadata": {"total_size": 64}, "weight_map": {"w": first, "b": second, "n": second}}
    )
    return files


@functools.cache
def config() -> dict[str, Any]:
    return {
        **{"architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": 8, "patch_size": 4},
        **{"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "image_size": SIDE},
        **{"num_channels": 1, "id2label": {str(label): name for label, name in enumerate(CLASSES)}},
        "label2id": {name: label for label, name in enumerate(CLASSES)},
    }


PROCESSOR = {
    **{"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": SIDE, "width": SIDE}},
    **{"do_normalize": True, "image_mean": [0.5], "image_std": [0.5], "do_rescale": True, "rescale_factor": 1 / 255},
    **{"resample": 2},
}
TRAINER_STATE = {"global_step": 20, "epoch": 1.0, "log_history": [{"loss": 1.0, "step": 10}]}


@functools.cache
def run() -> Files:
    """What Hugging Face's Trainer leaves of a tiny vision transformer."""
    from transformers import ViTConfig, ViTForImageClassification

    model = ViTForImageClassification(ViTConfig(**{k: v for k, v in config().items() if k != "architectures"}))
    files: dict[str, bytes] = {}
    for step in (10, 20):
        generator = torch.Generator().manual_seed(step)
        weights = {
            name: 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in model.state_dict().items()
        }
        home = f"run/checkpoint-{step}"
        files[f"{home}/model.safetensors"] = save(weights, {"format": "pt"})
        files[f"{home}/config.json"] = as_json(config())
        files[f"{home}/preprocessor_config.json"] = as_json(PROCESSOR)
        files[f"{home}/trainer_state.json"] = as_json({**TRAINER_STATE, "global_step": step})
    return files


def pixels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (EXAMPLES, SIDE, SIDE), dtype=np.uint8)


def labels() -> np.ndarray[Any, Any]:
    return np.arange(EXAMPLES) % len(CLASSES)


def npy_of(values: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@functools.cache
def image_set() -> bytes:
    return npz({"images": npy_of(pixels()), "labels": npy_of(labels())})


def tensor_set() -> bytes:
    return save({"images": torch.from_numpy(pixels()), "labels": torch.from_numpy(labels())})


def image(kind: str, number: int = 0, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels()[number]).save(buffer, kind, **options)
    return buffer.getvalue()


def with_data(name: str, content: bytes) -> Files:
    return {**run(), name: content}


def with_image(name: str, content: bytes) -> Files:
    """A folder of class folders with one image."""
    return {**run(), f"val/cat/{name}": content}


@functools.cache
def job() -> Files:
    return with_data("val/cat/0.png", image("PNG")) | {
        f"val/{CLASSES[number % 3]}/{number}.png": image("PNG", number) for number in range(EXAMPLES)
    }


def changed_json(files: Files, name: str, changes: Any) -> Files:
    """With some values of a JSON file changed; or with another text, or another value, in its place."""
    if not isinstance(changes, dict):
        return {**files, name: as_json(changes)}
    return {**files, name: as_json({**json.loads(files[name]), **changes})}


@functools.cache
def recipe() -> Files:
    """A result's coefficients beside its checkpoints."""
    files = {"run/step-1.safetensors": checkpoint(), "run/step-2.safetensors": save(state(2), {"format": "pt"})}
    entry = {
        **{"checkpoints": ["step-1.safetensors", "step-2.safetensors"], "groups": ["model"], "statistics": []},
        **{"group_of": {"w": 0, "b": 0}, "alpha": [[0.25], [0.75]]},
    }
    saved_coefficients = {
        "winner": "uniform",
        "candidates": {"uniform": entry},
        "output_dtypes": {"w": "float32", "b": "float32", "n": "int64"},
        "sha256": {
            name: {name: hashlib.sha256(files[f"run/{name}"]).hexdigest()}
            for name in ("step-1.safetensors", "step-2.safetensors")
        },
    }
    return {**files, "result/coefficients.json": as_json(saved_coefficients)}


@functools.cache
def resume_state() -> Files:
    content = saved({"single-0": {"statistics": None, "on": {"fit": {"loss": torch.ones(3)}}}})
    return {"job/evaluations.pt": hashlib.sha256(content).digest() + content}


@functools.cache
def values() -> Files:
    """Like the `.metadata` of a sharded checkpoint, in the newest protocol."""
    places = {Fraction(1, number): {"offset": number, "path": PurePosixPath("a/b"), "type": float} for number in (2, 3)}
    content = {"places": places, "sizes": (1, 2.5, -3, 10**20, None, True), "names": {"a", "\u00e9"}, "more": b"\0\xff"}
    return {"values.pkl": pickle.dumps([content, content["sizes"], [content]], protocol=5)}


@functools.cache
def sharded() -> Files:
    """DCP checkpoints of one process."""
    import torch.distributed.checkpoint as dcp

    files: dict[str, bytes] = {}
    for number in (1, 2):
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            # That it is one process.
            warnings.simplefilter("ignore")
            writer = dcp.FileSystemWriter(folder, sync_files=False)
            dcp.save({"model": state(number), "step": number}, storage_writer=writer, no_dist=True)
            files |= {f"step-{number}/{path.name}": path.read_bytes() for path in Path(folder).iterdir()}
    return files


def described(content: bytes) -> Files:
    """The second of two DCP checkpoints with another description."""
    return {**sharded(), "step-2/.metadata": content}


VALID = {
    "safetensors": ("combine", plain),
    "pickles": ("combine", pickles),
    "old pickles": ("combine", old_pickles),
    "shards": ("combine", shards),
    "sharded": ("combine", sharded),
    "npz": ("data", lambda: with_data("set.npz", image_set())),
    "safetensors data": ("data", lambda: with_data("set.safetensors", tensor_set())),
    "png": ("data", lambda: with_image("0.png", image("PNG"))),
    "jpeg": ("data", lambda: with_image("0.jpg", image("JPEG"))),
    "webp": ("data", lambda: with_image("0.webp", image("WEBP"))),
    "bmp": ("data", lambda: with_image("0.bmp", image("BMP"))),
    "job": ("job", job),
    "rebuild": ("rebuild", recipe),
    "values": ("values", values),
    "resume": ("resume", resume_state),
}
"""Name -> target and files. Each is read."""
