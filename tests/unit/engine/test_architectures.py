"""Checkpoints of several architectures in one folder are grouped, and the difference is told in plain words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ladle_engine import CheckpointError, combine_checkpoints, discover
from ladle_engine.checkpoints.architectures import architectures

State = dict[str, Tensor]


def llama(layers: int = 2, width: int = 8, vocabulary: int = 32, seed: int | None = None) -> State:
    """The names and proportions of a small language model."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    state = {"model.embed_tokens.weight": rand(vocabulary, width), "model.norm.weight": rand(width)}
    for layer in range(layers):
        block = f"model.layers.{layer}"
        state |= {f"{block}.self_attn.{name}.weight": rand(width, width) for name in ("q_proj", "k_proj", "o_proj")}
        state |= {f"{block}.mlp.up.weight": rand(4 * width, width), f"{block}.norm.weight": rand(width)}
    return state | {"lm_head.weight": rand(vocabulary, width)}


def bert(labels: int | None = 2, head: str = "classifier") -> State:
    state = {"bert.embeddings.word_embeddings.weight": torch.rand(30, 8)}
    for layer in range(3):
        state[f"bert.encoder.layer.{layer}.attention.self.query.weight"] = torch.rand(8, 8)
        state[f"bert.encoder.layer.{layer}.output.dense.weight"] = torch.rand(8, 8)
    if labels is not None:
        state |= {f"{head}.weight": torch.rand(labels, 8), f"{head}.bias": torch.rand(labels)}
    return state


def vit(positions: int) -> State:
    blocks = {f"blocks.{block}.attn.qkv.weight": torch.rand(24, 8) for block in range(3)}
    return {"pos_embed": torch.rand(1, positions, 8), **blocks}


def resnet(*blocks: int) -> State:
    state = {"conv1.weight": torch.rand(8, 3, 3, 3), "fc.weight": torch.rand(10, 8)}
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            state[f"layer{stage}.{block}.conv1.weight"] = torch.rand(8, 8, 3, 3)
            state[f"layer{stage}.{block}.bn1.num_batches_tracked"] = torch.tensor(block)
    return state


def renamed(state: State, old: str, new: str) -> State:
    return {name.replace(old, new): tensor for name, tensor in state.items()}


def with_adapter(state: State) -> State:
    queries = [name.removesuffix(".weight") for name in state if "q_proj" in name]
    return state | {f"{name}.lora_{factor}.weight": torch.rand(2, 8) for name in queries for factor in "AB"}


def folder_of(folder: Path, *states: State) -> Path:
    folder.mkdir()
    for number, state in enumerate(states, start=1):
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / f"step-{number}.safetensors")
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        combine_checkpoints(folder, output=folder.parent / "out")
    assert caught.value.code == "mismatched-checkpoints"
    return caught.value.message.replace(".safetensors", "")


KINDS: dict[str, tuple[Callable[[], State], Callable[[], State], str, str]] = {
    "added tokens": (
        llama,
        lambda: llama(vocabulary=33),
        "`step-3` has 33 rows in `lm_head.weight` and `model.embed_tokens.weight`, and `step-2` has 32: tokens were",
        "`lm_head` and `model.embed_tokens`",
    ),
    "number of labels": (
        bert,
        lambda: bert(5),
        "`step-3` has 5 outputs in `classifier.bias` and `classifier.weight`, and `step-2` has 2: they were trained "
        "for another number of labels",
        "`classifier`",
    ),
    "no head": (
        bert,
        lambda: bert(None),
        "`step-3` lacks `classifier.bias` and `classifier.weight`, which `step-2` has: it was saved without this head",
        "`classifier`",
    ),
    "another head": (
        bert,
        lambda: bert(head="qa_outputs"),
        "`step-3` has `qa_outputs.bias` and `qa_outputs.weight`, where `step-2` has `classifier.bias` and",
        "`classifier` and `qa_outputs`",
    ),
    "positions": (
        lambda: vit(17),
        lambda: vit(26),
        "`step-3` has 26 positions in `pos_embed`, and `step-2` has 17: they were trained for another length or image",
        "`pos_embed`",
    ),
    "depth": (llama, lambda: llama(layers=5), "`step-3` has 5 layers (`model.layers.*`), and `step-2` has 2.", ""),
    "depth of a stage": (
        lambda: resnet(2, 2),
        lambda: resnet(2, 3),
        "`step-3` has 3 layers (`layer2.*`), and `step-2` has 2.",
        "",
    ),
    "depth and width": (
        llama,
        lambda: llama(layers=5, width=16),
        "`step-3` has 5 layers (`model.layers.*`), and `step-2` has 2; shapes differ too.",
        "",
    ),
    "width": (
        llama,
        lambda: llama(width=16, vocabulary=40),
        "`step-3` is of another width: `lm_head.weight` has shape (40, 16) in `step-3`, but (32, 8) in `step-2`",
        "",
    ),
    "an adapter beside": (
        llama,
        lambda: with_adapter(llama()),
        "`step-3` has an adapter (`model.layers.0.self_attn.q_proj.lora_A.weight` and 3 more) beside the weights",
        "",
    ),
    "an average beside": (
        lambda: resnet(2),
        lambda: resnet(2) | {f"model_ema.{name}": tensor.clone() for name, tensor in resnet(2).items()},
        "`step-3` has a second copy of the weights, an average made while training (`model_ema.conv1.weight` and 3 "
        "more), which `step-2` lacks",
        "`model_ema`",
    ),
    "a module renamed": (
        llama,
        lambda: renamed(llama(), "self_attn", "attention"),
        "where `step-2` has `self_attn` in the names of tensors, `step-3` calls it `attention`",
        "",
    ),
    "a model renamed": (
        bert,
        lambda: renamed(bert(), "bert.", "roberta."),
        "where `step-2` has `bert` in the names of tensors, `step-3` calls it `roberta`",
        "",
    ),
    "a kind": (
        bert,
        lambda: bert() | {"classifier.bias": torch.ones(2, dtype=torch.int64)},
        "an integer tensor and a floating one",
        "`classifier.bias`",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_usual_differences_are_told_in_plain_words(tmp_path: Path, kind: str) -> None:
    usual, odd, words, skipped = KINDS[kind]
    message = refused(folder_of(tmp_path / "in", usual(), usual(), odd()))
    assert words in message
    assert "are of 2 architectures: (1) `step-1` and `step-2`; (2) " in message
    assert "Take the 2 that are alike with `like=`, the name of any of them: `step-2`. Or leave `step-3` out" in message
    assert ("`skip_tensors=`" in message) == bool(skipped)
    assert message.endswith(f"another's: {skipped}." if skipped else "`exclude=`.")


def test_of_several_groups_each_is_shown_and_can_be_chosen(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "in", llama(2, seed=0), bert(), llama(2, seed=1), llama(3), llama(3, seed=1), llama(3, seed=2)
    )
    message = refused(folder)
    assert (
        "are of 3 architectures: (1) `step-4`, `step-5` and `step-6`; (2) `step-1` and `step-3`: `step-3` has 2"
        in message
    )
    assert "(3) `step-2` lacks the tensor" in message
    assert "Choose one with `like=`, the name of any of its checkpoints: `step-6` (3) or `step-3` (2)." in message
    mean = load_file(
        combine_checkpoints(folder, output=tmp_path / "mean", like="step-1.safetensors") / "model.safetensors"
    )
    states = [llama(2, seed=0), llama(2, seed=1)]
    assert mean.keys() == states[0].keys()
    for name, tensor in mean.items():
        assert torch.equal(tensor, torch.stack([state[name].double() for state in states]).mean(dim=0).float()), name


def test_like_is_said_and_goes_with_the_other_filters(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", llama(2), bert(), llama(2, seed=1), llama(3), llama(2, seed=2))
    found = discover(folder, like="step-4.safetensors", exclude="step-9*", skip_tensors="model.layers")
    assert found.names == tuple(f"step-{number}.safetensors" for number in (1, 3, 4, 5)), (
        "what is left out does not count"
    )
    found = discover(folder, like="step-5.safetensors", last=2)
    assert found.names == ("step-3.safetensors", "step-5.safetensors")
    assert (
        "Of another architecture than `step-5.safetensors`, and left out: `step-2.safetensors` and "
        "`step-4.safetensors`." in found.warnings
    )
    with pytest.raises(CheckpointError) as caught:
        discover(folder, like="step-2.safetensors")
    assert caught.value.code == "too-few-checkpoints"


def test_wrappers_and_counters_are_no_architecture(tmp_path: Path) -> None:
    wrapped = {f"module.{name}": tensor for name, tensor in resnet(2).items()} | {"n_averaged": torch.tensor(3)}
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in resnet(2).items()}
    folder = folder_of(tmp_path / "in", resnet(2), wrapped, compiled, resnet(3))
    assert [group.names for group in architectures(discover(folder))] == [
        [f"step-{number}.safetensors" for number in (1, 2, 3)],
        ["step-4.safetensors"],
    ]


@pytest.mark.parametrize("copies", [(1, 0, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (0, 1, 0)], ids=str)
def test_a_tied_output_layer_may_be_in_some_files_and_not_in_others(tmp_path: Path, copies: tuple[int, ...]) -> None:
    states = [llama(seed=seed) for seed in range(3)]
    for state, has_copy in zip(states, copies, strict=True):
        del state["lm_head.weight"]
        if has_copy:
            state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    folder = folder_of(tmp_path / "in", *states)
    mean = load_file(combine_checkpoints(folder, output=tmp_path / "out") / "model.safetensors")
    embeddings = torch.stack([state["model.embed_tokens.weight"].double() for state in states]).mean(dim=0).float()
    assert torch.equal(mean["model.embed_tokens.weight"], embeddings)
    assert mean.keys() == states[-1].keys(), "the result has the names of the last one"
    if copies[-1]:
        assert torch.equal(mean["lm_head.weight"], embeddings)


def test_an_output_layer_of_its_own_that_some_lack_is_refused(tmp_path: Path) -> None:
    without = llama()
    del without["lm_head.weight"]
    assert "`step-1` lacks `lm_head.weight`" in refused(folder_of(tmp_path / "in", without, llama(), llama()))
