"""NeMo's `.nemo`: weights in a tar archive, read where they stand."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ladle_engine import CheckpointError, combine_checkpoints


def state(number: int) -> dict[str, Tensor]:
    return {"encoder.w": torch.arange(6.0).view(2, 3) * number, "encoder.t": torch.arange(6.0).view(2, 3).t() * number}


def nemo(path: Path, *, mode: str = "w", legacy: bool = False, names: tuple[str, ...] = (), **options: Any) -> None:
    """As `ModelPT.save_to` writes it: the config, the weights, and artifacts."""
    buffer = io.BytesIO()
    torch.save(state(int(path.stem[-1])), buffer, _use_new_zipfile_serialization=not legacy)
    members = {
        "./model_config.yaml": b"target: x\n",
        **dict.fromkeys(names or ("./model_weights.ckpt",), buffer.getvalue()),
    }
    with tarfile.open(path, mode, **options) as archive:
        for name, content in {**members, "./tokenizer.model": b"x" * 700}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_the_weights_in_the_archive_are_averaged(tmp_path: Path, legacy: bool, form: int) -> None:
    for number in (1, 2):
        nemo(tmp_path / f"step={number}.nemo", legacy=legacy, format=form)
    found = load_file(combine_checkpoints(tmp_path, output=tmp_path / "out") / "model.safetensors")
    assert found.keys() == state(1).keys()
    assert all(torch.equal(found[name], tensor * 1.5) for name, tensor in state(1).items())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "compressed": ({"mode": "w:gz"}, "is compressed. Unpack it"),
    "the parts of two ranks": (
        {"names": ("./mp_rank_00/model_weights.ckpt", "./mp_rank_01/model_weights.ckpt")},
        "an archive of NeMo's with one `model_weights.ckpt`, but has 2",
    ),
    "sharded": (
        {"names": ("./model_weights/.metadata", "./model_weights/__0_0.distcp")},
        "Unpack it with `tar xf`, and give",
    ),
    "another archive": ({"names": ("a.ckpt",)}, "with one `model_weights.ckpt`, but has 0 of 3 files"),
}


@pytest.mark.parametrize(("options", "words"), REFUSED.values(), ids=REFUSED)
def test_another_archive_is_refused_with_what_to_do(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    for number in (1, 2):
        nemo(tmp_path / f"step={number}.nemo", **options)
    with pytest.raises(CheckpointError) as caught:
        combine_checkpoints(tmp_path, output=tmp_path / "out")
    assert caught.value.code == "corrupt-checkpoint"
    assert words in caught.value.message


@pytest.mark.parametrize("kept", [300, 600, 2000])
def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    for number in (1, 2):
        nemo(tmp_path / f"step={number}.nemo")
    path = tmp_path / "step=2.nemo"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError) as caught:
        combine_checkpoints(tmp_path, output=tmp_path / "out")
    assert caught.value.code == "corrupt-checkpoint"
    assert "step=2.nemo" in caught.value.message
