"""`docs/migration.md`: what the other tool's own program makes, and what our lines of the page make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.docs.snippets import Snippet, snippets_of
from tests.formats.kinds import KINDS
from tests.formats.tool import run, writing

PAGE = snippets_of("docs/migration.md")


def snippet(language: str, word: str) -> Snippet:
    """The one with this word."""
    (found,) = (each for each in PAGE if each.language == language and word in each.text)
    return found


def test_mergekits_linear_merge_is_our_weighted_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "linear.yaml").write_text(snippet("yaml", "merge_method").text)
    assert snippet("console", "mergekit-yaml").text == "mergekit-yaml linear.yaml merged\n"
    run("mergekit_merge", tools=("mergekit",), folder=tmp_path)
    (tmp_path / "merged").rename(tmp_path / "theirs")
    monkeypatch.chdir(tmp_path)
    exec(snippet("python", '"merged"').text, {})
    theirs, ours = load_file("theirs/model.safetensors"), load_file("merged/model.safetensors")
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-6, atol=1e-7)  # mergekit sums in float32


def test_onmt_average_models_is_our_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (kind,) = (kind for kind in KINDS if kind.name == "opennmt")
    with writing(kind, tmp_path / "run", tmp_path / "mean.safetensors"):
        models = [f"run/model_step_{step}.pt" for step in (10, 20, 30, 40)]
        run("onmt_average", "-models", *models, "-output", "averaged.pt", tools=kind.tools, folder=tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(snippet("python", '"onmt-mean"').text, {})
    theirs = torch.load(tmp_path / "averaged.pt", weights_only=False)
    tensors = {**theirs["model"], **{f"generator.{name}": value for name, value in theirs["generator"].items()}}
    ours = load_file("onmt-mean/model.safetensors")
    assert tensors.keys() == ours.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-7)  # a running mean in float32
