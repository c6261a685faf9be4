"""`average` on LoRA adapters: the base is read once and frozen, and what is written scores what the report says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ladle_engine import average, candidate_state, rebuild
from ladle_engine.average import precheck
from ladle_engine.errors import EngineError, TaskError
from ladle_engine.storage.input_file import COUNTS
from tests.unit.engine.lora import OPTIONS, load_base, loaded, loss_of, make_adapter, make_base, make_sweep, make_tokens
from tests.unit.tasks.text_models import TEXTS, bert_tokenizer

METHODS = {"methods": ["uniform", "greedy-soup", "twa", "twa-layerwise"], "options": {"twa": {"steps": 6}}}
SWEEP: dict[str, dict[str, Any]] = {"a": {"r": 2}, "b": {"r": 4, "lora_alpha": 4}, "c": {"r": 3, "use_rslora": True}}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    make_tokens(folder / "val.npy")
    return make_sweep(folder, SWEEP, size=0.05)


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def loss_in_report(report: dict[str, Any], method: str) -> float:
    """Over both splits, which together are all blocks of the validation set."""
    row = next(row for row in report["candidates"] if row["method"] == method)
    splits = report["splits"]
    assert splits["fit_judged"] == splits["fit"]
    sums = splits["fit"] * row["fit"]["loss"] + splits["select"] * row["select"]["loss"]
    return float(sums / (splits["fit"] + splits["select"]))


@pytest.mark.parametrize("rank", [None, 2])
def test_peft_loads_each_candidate_and_it_scores_what_the_report_says(
    sweep: Path, tmp_path: Path, rank: int | None
) -> None:
    val = sweep.parent / "val.npy"
    outcome = average(
        sweep, val, output=tmp_path / "out", method_options=METHODS, task_options=OPTIONS, adapter_rank=rank
    )
    report = report_of(outcome.folder)
    for candidate in report["candidates"]:
        method = candidate["method"]
        folder = rebuild(outcome.folder, sweep, output=tmp_path / method, candidate=method)
        model = loaded(load_base(sweep.parent / "base"), folder)
        assert loss_of(model, val) == pytest.approx(loss_in_report(report, method), rel=1e-5), method
        told = json.loads((folder / "adapter_config.json").read_text())
        assert told["base_model_name_or_path"] == str(sweep.parent / "base")
        if rank is not None and max(candidate["coefficients"][0]) < 1:
            assert told["r"] == rank
    losses = {row["method"]: row["select"]["loss"] for row in report["candidates"]}
    assert losses[report["winner"]] == min(losses.values())
    one, again = (
        load_file(each / "adapter_model.safetensors") for each in (outcome.folder, tmp_path / report["winner"])
    )
    assert one.keys() == again.keys()
    assert all(torch.equal(one[name], again[name]) for name in one)
    state = candidate_state(outcome.folder, sweep)
    assert all(torch.equal(one[name], state[name]) for name in one)
    assert report["adapters"]["ranks"] == {"a": 2, "b": 4, "c": 3}
    assert report["adapters"]["base_files"].keys() == {"model.safetensors"}


def test_the_error_of_each_rank_is_in_the_report_and_on_the_card(tmp_path: Path) -> None:
    val = make_tokens(tmp_path / "val.npy")
    ids = torch.from_numpy(np.load(val).astype(np.int64)).view(-1, 16)

    def train(model: Any) -> None:
        """Then each gets noise of its own, of which an average keeps a part."""
        optimiser = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
        for _ in range(25):
            model(input_ids=ids, labels=ids).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.1 * torch.randn_like(parameter))

    sweep = make_sweep(tmp_path, {name: {} for name in "abcd"}, size=0.0, change=train)
    outcome = average(sweep, val, output=tmp_path / "out", task_options=OPTIONS, method="uniform")
    assert outcome.method == "uniform"
    adapters = report_of(outcome.folder)["adapters"]
    assert adapters["rank"] > 4
    assert adapters["error"] <= 0.01
    errors = list(adapters["error_of_rank"].values())
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    card = (outcome.folder / "README.md").read_text()
    assert f"written with rank {adapters['rank']}" in card
    assert "PeftModel.from_pretrained" in card
    assert f"with rank {adapters['rank']}" in " ".join(outcome.warnings)


def test_the_base_is_read_once_and_neither_trained_nor_written(sweep: Path, tmp_path: Path) -> None:
    COUNTS.clear()
    outcome = average(
        sweep,
        sweep.parent / "val.npy",
        output=tmp_path / "out",
        method="twa",
        method_options={"steps": 4},
        task_options=OPTIONS,
    )
    base = sweep.parent / "base/model.safetensors"
    assert COUNTS.bytes[base] < 1.1 * base.stat().st_size
    names = load_file(outcome.folder / "adapter_model.safetensors")
    assert all(".lora_" in name for name in names)
    assert not (outcome.folder / "config.json").exists()
    stored = load_file(sweep / "c/adapter_model.safetensors")
    assert outcome.num_parameters == sum(each.numel() for each in stored.values())


def test_factor_by_factor_and_dora(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"a": {"use_dora": True}, "b": {"use_dora": True}}, size=0.05)
    val = make_tokens(tmp_path / "val.npy")
    outcome = average(
        sweep, val, output=tmp_path / "out", method="uniform", task_options=OPTIONS, adapter_space="factors"
    )
    report = report_of(outcome.folder)
    for method in ("best", "uniform"):
        folder = rebuild(outcome.folder, sweep, output=tmp_path / method, candidate=method)
        model = loaded(load_base(tmp_path / "base"), folder)
        assert loss_of(model, val) == pytest.approx(loss_in_report(report, method), rel=1e-5)
    assert report["adapters"] | {"base_files": {}} == {
        "space": "factors", "base": str(tmp_path / "base"), "base_files": {}, "ranks": {"a": 4, "b": 4}, "rank": None,
        "error": None, "error_of_rank": {},
    }  # fmt: skip


@pytest.mark.parametrize("config", [{"target_modules": ["wte", "c_attn"]}, {"modules_to_save": ["lm_head", "ln_f"]}])
def test_embeddings_and_whole_modules_that_the_base_ties(tmp_path: Path, config: dict[str, Any]) -> None:
    sweep = make_sweep(tmp_path, {"a": config, "b": {**config, "r": 2}}, size=0.05)
    val = make_tokens(tmp_path / "val.npy")
    outcome = average(sweep, val, output=tmp_path / "out", method="uniform", task_options=OPTIONS)
    report = report_of(outcome.folder)
    for method in ("best", "uniform"):
        folder = rebuild(outcome.folder, sweep, output=tmp_path / method, candidate=method)
        model = loaded(load_base(tmp_path / "base"), folder)
        assert loss_of(model, val) == pytest.approx(loss_in_report(report, method), rel=1e-5)


def test_a_base_that_is_given_in_memory_needs_no_folder(sweep: Path, tmp_path: Path) -> None:
    moved = tmp_path / "sweep"
    shutil.copytree(sweep, moved)
    for config in moved.glob("*/adapter_config.json"):
        config.write_text(config.read_text().replace(str(sweep.parent / "base"), "openai/gone"))
    ids = torch.from_numpy(np.load(sweep.parent / "val.npy").astype(np.int64)).view(-1, 16)

    def loss(model: Any, batch: torch.Tensor) -> Any:
        return model(input_ids=batch, labels=batch).loss

    outcome = average(
        moved,
        output=tmp_path / "out",
        model=load_base(sweep.parent / "base"),
        loss=loss,
        data=list(ids.split(4)),
        method="uniform",
    )
    best = next(each for each in outcome.candidates if each.method == "best")
    folder = rebuild(outcome.folder, moved, output=tmp_path / "best", candidate="best")
    model = loaded(load_base(sweep.parent / "base"), folder)
    both = (best.select["loss"] + best.fit["loss"]) / 2
    with torch.no_grad():
        assert float(loss(model, ids)) == pytest.approx(both, rel=1e-5)


def _named(sweep: Path, folder: Path, base: str) -> Path:
    shutil.copytree(sweep, folder)
    for config in folder.glob("*/adapter_config.json"):
        values = json.loads(config.read_text())
        config.write_text(json.dumps(values | {"base_model_name_or_path": base}))
    return folder


def test_a_name_on_a_hub_is_not_downloaded_but_asked_for(sweep: Path, tmp_path: Path) -> None:
    moved = _named(sweep, tmp_path / "sweep", "meta-llama/Llama-3.2-1B")
    arguments: dict[str, Any] = {"val_set": sweep.parent / "val.npy", "output": tmp_path / "out"}
    with pytest.raises(TaskError, match=r"`base_model=` must be.*`meta-llama/Llama-3.2-1B`.*Nothing is downloaded"):
        precheck(moved, task_options=OPTIONS, **arguments)
    precheck(moved, task_options=OPTIONS, base_model=sweep.parent / "base", **arguments)


def _other_base(tmp_path: Path, **changed: int) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 48, "n_positions": 32}
    GPT2LMHeadModel(GPT2Config(**{**sizes, **changed})).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_embd": 24}, "must have 16 inputs and .* outputs in `transformer.h.0.attn.c_attn`.*`base_model=`"),
        ({"n_layer": 1}, "must have the layer `transformer.h.1.attn.c_attn`.*`base_model=`"),
    ],
)
def test_another_base_is_refused(sweep: Path, tmp_path: Path, changed: dict[str, int], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        average(
            sweep,
            sweep.parent / "val.npy",
            output=tmp_path / "out",
            task_options=OPTIONS,
            base_model=_other_base(tmp_path, **changed),
        )


def test_a_folder_without_a_base_is_refused(sweep: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"val_set": sweep.parent / "val.npy", "output": tmp_path / "out"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(TaskError, match=r"`base_model=` must be a folder with the weights of one model.*holds none"):
        precheck(sweep, base_model=tmp_path / "empty", **arguments)
    with pytest.raises(TaskError, match=r"`base_model=` must be the folder of the base model, but .* is none"):
        precheck(sweep, base_model=tmp_path / "gone", **arguments)
    make_base(tmp_path / "models/checkpoint-1")
    make_base(tmp_path / "models/checkpoint-2")
    with pytest.raises(EngineError, match="`base_model=` must be absent, because the checkpoints are whole models"):
        precheck(tmp_path / "models", base_model=sweep.parent / "base", exclude="x", **arguments)


def test_a_base_that_changes_while_the_job_runs_ends_it(sweep: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(sweep.parent / "base", base)

    def change(event: Any) -> None:
        if type(event).__name__ == "CandidateScored":
            content = (base / "model.safetensors").read_bytes()
            (base / "model.safetensors").write_bytes(content[:-4] + bytes(4))

    with pytest.raises(EngineError, match=r"model.safetensors") as error:
        average(
            sweep, sweep.parent / "val.npy", output=tmp_path / "out", method="uniform", task_options=OPTIONS,
            base_model=base, progress=change,
        )  # fmt: skip
    assert error.value.code == "inputs-changed"


def test_a_classifier_whose_head_only_the_adapters_have(tmp_path: Path) -> None:
    """As PEFT trains one from a masked language model: with a head of three classes that it saves whole."""
    import transformers as hf

    base, val = tmp_path / "base", tmp_path / "val.jsonl"
    tokenizer = bert_tokenizer(tmp_path / "tokenizer")
    torch.manual_seed(0)
    hf.DistilBertForMaskedLM(
        hf.DistilBertConfig(dim=16, hidden_dim=16, n_layers=1, n_heads=2, vocab_size=len(tokenizer))
    ).save_pretrained(base)
    tokenizer.save_pretrained(base)

    def network() -> Any:
        torch.manual_seed(1)
        return hf.DistilBertForSequenceClassification.from_pretrained(base, num_labels=3)

    for seed in (1, 2):
        make_adapter(
            tmp_path / f"sweep/run-{seed}", network(), seed, r=seed, size=0.1, task_type="SEQ_CLS",
            target_modules=["q_lin"], modules_to_save=["pre_classifier", "classifier"],
        )  # fmt: skip
    rows = [{"text": TEXTS[number % 5], "label": number % 3} for number in range(30)]
    val.write_text("\n".join(map(json.dumps, rows)))
    outcome = average(tmp_path / "sweep", val, output=tmp_path / "out", method="uniform")
    report = report_of(outcome.folder)
    assert report["task"] == "text-classification"
    batch = tokenizer([str(row["text"]) for row in rows], return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)
    for method in ("best", "uniform"):
        folder = rebuild(outcome.folder, tmp_path / "sweep", output=tmp_path / method, candidate=method)
        with torch.no_grad():
            logits = loaded(network(), folder)(**batch).logits.double()
        expected = float(torch.nn.functional.cross_entropy(logits, torch.tensor([row["label"] for row in rows])))
        assert loss_in_report(report, method) == pytest.approx(expected, rel=1e-5)
