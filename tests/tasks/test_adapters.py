"""LoRA adapters, trained by transformers' Trainer with PEFT and left as it leaves them, through every door."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from ladle_engine import average
from ladle_engine.checkpoints import discover
from ladle_engine.tasks.causal_lm import CausalLm
from ladle_engine.tasks.examples import split
from tests.tasks.doors import SMALL, Doors, Result
from tests.tasks.test_causal_lm import OPTIONS, documents_of, lines
from tests.unit.engine.lora import loaded
from tests.unit.tasks.language_models import causal_model
from tests.unit.tasks.text_models import gpt2_tokenizer


def train(folder: Path, base: Path, texts: list[str], **config: Any) -> None:
    """A checkpoint of the Trainer after each epoch, and the last adapter in the root."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    # transformers' and PEFT's own, which are errors here.
    warnings.simplefilter("ignore")
    torch.manual_seed(config["r"])
    tokenizer = AutoTokenizer.from_pretrained(base)
    settings = {"lora_alpha": 16, "target_modules": ["c_attn"], "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**{**settings, **config}))
    rows = []
    for text in texts:
        ids = tokenizer(text, padding="max_length", max_length=24, truncation=True).input_ids
        rows.append({"input_ids": ids, "labels": [each if each != tokenizer.pad_token_id else -100 for each in ids]})
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=2, save_strategy="epoch", learning_rate=5e-3, report_to=[],
        per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()


@pytest.fixture(scope="module")
def sweep(doors: Doors) -> Path:
    torch.manual_seed(0)
    base = doors.data / "base"
    tokenizer = gpt2_tokenizer(doors.data / "tokenizer")
    tokenizer.pad_token = tokenizer.eos_token
    causal_model("gpt2").save_pretrained(base)
    tokenizer.save_pretrained(base)
    texts = lines(24, seed=1)
    for rank in (2, 4):
        with warnings.catch_warnings():
            train(doors.data / "sweep" / f"run-r{rank}", base, texts, r=rank)
    (doors.data / "val.txt").write_text("\n".join(lines(40, seed=2)) + "\n")
    return doors.data / "sweep"


@torch.no_grad()
def loss_alone(base: Path, adapter: Path, documents: list[torch.Tensor]) -> float:
    from transformers import AutoModelForCausalLM

    model = loaded(AutoModelForCausalLM.from_pretrained(base), adapter)
    sums = [(float(model(ids[None], labels=ids[None]).loss) * (len(ids) - 1), len(ids) - 1) for ids in documents]
    return sum(nll for nll, _ in sums) / sum(count for _, count in sums)


def select_documents(base: Path, val: Path) -> list[torch.Tensor]:
    data = CausalLm.from_options(OPTIONS).open_data(val, discover(base, names=["model.safetensors"]))
    _, select = split(len(data), 0.5, 0)
    return documents_of(data.batch(select))


def test_a_sweep_of_trainers_runs_through_every_door(doors: Doors, sweep: Path) -> None:
    base, val = doors.data / "base", doors.data / "val.txt"
    found = discover(sweep)
    # The root of each run is its last checkpoint once more.
    assert len(found.names) == 4
    results: list[Result] = doors.through_all(
        sweep, val, task="causal-lm", task_options=OPTIONS, adapters={"base_model": str(base)}
    )
    documents = select_documents(base, val)
    for result in results:
        assert (result.folder / "adapter_model.safetensors").is_file()
        assert loss_alone(base, result.folder, documents) == pytest.approx(result.winner["loss"], rel=1e-5)
        assert result.winner["perplexity"] == pytest.approx(math.exp(result.winner["loss"]), rel=1e-5)
        assert set(result.report["adapters"]["ranks"].values()) == {2, 4}


def test_with_a_small_rank_the_result_still_scores_what_the_report_says(doors: Doors, sweep: Path) -> None:
    base, val = doors.data / "base", doors.data / "val.txt"
    outcome = average(
        sweep, val, output=doors.data.parent / "small", method_options=dict(SMALL), task_options=OPTIONS,
        base_model=base, adapter_rank=1,
    )  # fmt: skip
    winner = next(each for each in outcome.candidates if each.method == outcome.method)
    documents = select_documents(base, val)
    assert loss_alone(base, outcome.folder, documents) == pytest.approx(winner.select["loss"], rel=1e-5)
    best = next(each for each in outcome.candidates if each.method == "best")
    assert winner.select["loss"] <= best.select["loss"]
    report = json.loads((outcome.folder / "report.json").read_text())
    assert report["adapters"]["rank"] in (1, None)
