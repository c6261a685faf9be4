"""The callback in the real Trainer, with a service in this process."""

from __future__ import annotations

import errno
import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ladle import InvalidSpec
from ladle.callbacks import NotKeptWarning, _kept_folder
from ladle.callbacks.transformers import LadleCallback
from ladle.cli.stack import StackError
from ladle.curve import read
from ladle_engine import inspect
from tests.unit.callbacks.services import Service
from tests.unit.callbacks.test_keeper import fails

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Recorder(TrainerCallback):
    """A tracker: what is logged before its run ends in `on_train_end`. And the states after each step."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.states: dict[int, dict[str, torch.Tensor]] = {}
        self.is_over = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.is_over = False

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        self.states[state.global_step] = {name: value.clone() for name, value in model.state_dict().items()}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        assert not self.is_over, "the tracker's run has ended"
        self.logged.append({**logs, "at": state.global_step})

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.is_over = True


def small_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    )


def trainer_of(folder: Path, model: Any = None, **arguments: Any) -> tuple[Trainer, Recorder]:
    given: dict[str, Any] = {
        "max_steps": 8, "save_strategy": "no", "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 2,
    }  # fmt: skip
    torch.manual_seed(1)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 32, (16, 8))]
    recorder = Recorder()
    trainer = Trainer(
        model=model if model is not None else small_model(),
        args=TrainingArguments(output_dir=str(folder), **{**given, **arguments}),
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[recorder],
    )
    return trainer, recorder


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def val_set(tmp_path: Path) -> Path:
    path = tmp_path / "val.jsonl"
    path.write_text('{"text": "a"}\n')
    return path


def test_the_average_of_what_was_kept_lies_beside_the_best_model_and_its_metrics_are_in_the_tracker(
    tmp_path: Path, service: Service, val_set: Path
) -> None:
    home = tmp_path / "run"
    trainer, recorder = trainer_of(home)
    trainer.add_callback(LadleCallback(trainer, val_set, every=2, last=3, task="causal-lm"))
    trainer.train()
    (job,) = service.jobs
    assert job["ckpt_dir"] == home / "ladle/checkpoints"
    assert (job["task"], job["checkpoints"]) == ("causal-lm", {"steps": [4, 6, 8]})
    averaged = load_file(home / "averaged/model.safetensors")
    for name, value in averaged.items():
        exact = torch.stack([recorder.states[step][name].double() for step in (4, 6, 8)]).mean(0).float()
        assert torch.equal(value, exact), name
    loaded = AutoModelForCausalLM.from_pretrained(home / "averaged")
    assert torch.equal(loaded.transformer.wte.weight, averaged["transformer.wte.weight"])
    at_the_end = next(each for each in recorder.logged if "ladle/accuracy" in each)
    assert (at_the_end["ladle/accuracy"], at_the_end["ladle/best_accuracy"]) == pytest.approx((0.51, 0.41))
    assert (at_the_end["ladle/loss"], at_the_end["ladle/best_loss"], at_the_end["ladle/step"]) == (1.0, 2.0, 8.0)
    (point,) = read(home / "ladle/curve.jsonl")
    assert (point.step, point.checkpoints, point.average, point.best) == (8, 3, 0.51, pytest.approx(0.41))


def test_what_is_kept_is_what_the_trainer_would_have_saved(tmp_path: Path, service: Service, val_set: Path) -> None:
    home = tmp_path / "run"
    trainer, _ = trainer_of(home, save_strategy="steps", save_steps=4, save_only_model=True)
    trainer.add_callback(LadleCallback(trainer, val_set, every=4))
    trainer.train()
    for step in (4, 8):
        own, kept = home / f"checkpoint-{step}", home / f"ladle/checkpoints/checkpoint-{step}"
        for file in kept.iterdir():
            assert (own / file.name).read_bytes() == file.read_bytes(), file.name
        missing = {file.name for file in own.iterdir()} - {file.name for file in kept.iterdir()}
        assert missing <= {"trainer_state.json", "training_args.bin"}, missing
    found = inspect(home / "ladle/checkpoints")
    assert (found.plan.task, found.usable) == ("causal-lm", True)


def test_a_compiled_model_is_kept_under_its_own_names(tmp_path: Path, service: Service, val_set: Path) -> None:
    trainer, _ = trainer_of(tmp_path / "run", torch_compile=True, torch_compile_backend="eager", max_steps=2)
    trainer.add_callback(LadleCallback(trainer, val_set, every=1))
    trainer.train()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run/ladle/checkpoints/checkpoint-2").state_dict()
    own = small_model().state_dict()
    assert loaded.keys() == own.keys()
    assert not torch.equal(loaded["transformer.wte.weight"], own["transformer.wte.weight"])


def test_weights_that_must_be_gathered_are_asked_of_the_accelerator(
    tmp_path: Path, service: Service, val_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP of the Trainer needs a GPU, so what it does is played here."""
    trainer, _ = trainer_of(tmp_path / "run", max_steps=1)
    callback = LadleCallback(trainer, val_set, every=1)
    assert callback.keeper is not None
    gathered = {name: torch.full_like(value, 0.25) for name, value in trainer.model.state_dict().items()}
    gathered["lm_head.weight"] = gathered["transformer.wte.weight"]
    monkeypatch.setattr(trainer, "is_fsdp_enabled", True)
    monkeypatch.setattr(trainer.accelerator, "get_state_dict", lambda model: gathered)
    callback._keep(callback.keeper, 1)
    callback.keeper.close()
    kept = load_file(tmp_path / "run/ladle/checkpoints/checkpoint-1/model.safetensors")
    assert kept
    assert all(bool((value == 0.25).all()) for value in kept.values())


def test_without_a_copy_the_trainers_own_checkpoints_are_averaged(
    tmp_path: Path, service: Service, val_set: Path
) -> None:
    home = tmp_path / "run"
    trainer, recorder = trainer_of(home, save_strategy="steps", save_steps=2)
    trainer.add_callback(LadleCallback(trainer, val_set, last=2))
    trainer.train()
    assert not (home / "ladle/checkpoints").exists()
    assert service.jobs[0]["checkpoints"] == {"steps": [6, 8]}
    name = "transformer.wte.weight"
    exact = torch.stack([recorder.states[step][name].double() for step in (6, 8)]).mean(0).float()
    assert torch.equal(load_file(home / "averaged/model.safetensors")[name], exact)


def test_a_curve_is_made_while_the_training_goes_on_and_takes_no_numbers_of_the_trainer_away(
    tmp_path: Path, service: Service, val_set: Path
) -> None:
    home = tmp_path / "run"
    trainer, recorder = trainer_of(home)
    callback = LadleCallback(trainer, val_set, every=2, average_every=2)
    trainer.add_callback(callback)

    class Slow(TrainerCallback):
        """Lets the first job end before step 6, as it would in a longer training."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if state.global_step == 5:
                callback.keeper.flush()
                assert callback.run.averager.wait(300)

    trainer.add_callback(Slow())
    trainer.train()
    assert [job["checkpoints"]["steps"] for job in service.jobs] == [[2, 4], [2, 4, 6, 8]], "and the last one only once"
    assert [point.step for point in read(home / "ladle/curve.jsonl")] == [4, 8]
    logged = [(each["at"], each["ladle/step"]) for each in recorder.logged if "ladle/step" in each]
    assert logged == [(6, 4.0), (8, 8.0)], "a point comes when its job has ended"
    assert [each["at"] for each in recorder.logged if "loss" in each] == [2, 4, 6, 8]


def test_a_job_that_takes_long_does_not_hold_up_the_training(tmp_path: Path, service: Service, val_set: Path) -> None:
    service.may_go_on.clear()
    trainer, _ = trainer_of(tmp_path / "run", max_steps=10)
    trainer.add_callback(LadleCallback(trainer, val_set, every=1, last=2, average_every=2))

    class AtTheEnd(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if state.global_step == 10:
                service.may_go_on.set()

    trainer.add_callback(AtTheEnd())
    trainer.train()
    steps = [tuple(job["checkpoints"]["steps"]) for job in service.jobs]
    assert steps[0] == (1, 2), "its checkpoints stay while it runs, although only the last two are kept"
    assert steps[-1] == (9, 10)
    assert len(steps) <= 3, "wishes do not pile up"
    assert names_in(tmp_path / "run/ladle/checkpoints") == ["checkpoint-10", "checkpoint-9"]
    assert (tmp_path / "run/averaged").exists()


def broken(service: Service) -> None:
    service.error = StackError("A stack needs a Redis server, but there is none.")


def lost(service: Service) -> None:
    service.submit = lambda *given, **options: 1 / 0  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize("how", [broken, lost])
def test_without_a_service_the_checkpoints_stay_and_the_message_has_the_command(
    tmp_path: Path, service: Service, val_set: Path, caplog: pytest.LogCaptureFixture,
    how: Callable[[Service], None],
) -> None:  # fmt: skip
    how(service)
    home = tmp_path / "run"
    trainer, _ = trainer_of(home)
    trainer.add_callback(LadleCallback(trainer, val_set, every=4, task="causal-lm", metric="loss"))
    with caplog.at_level(logging.WARNING, "ladle.callbacks"):
        trainer.train()
    (message,) = (record.getMessage() for record in caplog.records if record.name == "ladle.callbacks")
    command = shlex.split(message.splitlines()[-1])
    assert command == ["ladle", "run", str(home / "ladle/checkpoints"), str(val_set), "--task", "causal-lm",
                       "--metric", "loss"]  # fmt: skip
    assert names_in(home / "ladle/checkpoints") == ["checkpoint-4", "checkpoint-8"]
    assert not (home / "averaged").exists()


def test_a_tracker_that_fails_ends_no_training(
    tmp_path: Path, service: Service, val_set: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
            if "ladle/gain" in logs:
                raise ConnectionError("the tracker is away")

    trainer, _ = trainer_of(tmp_path / "run")
    trainer.add_callback(LadleCallback(trainer, val_set, every=4))
    trainer.add_callback(Failing())
    trainer.train()
    assert "the tracker is away" in caplog.text
    assert (tmp_path / "run/averaged").exists()


def test_a_folder_of_somebody_elses_is_not_replaced(
    tmp_path: Path, service: Service, val_set: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run/averaged").mkdir(parents=True)
    (tmp_path / "run/averaged/mine.txt").write_text("")
    trainer, _ = trainer_of(tmp_path / "run")
    trainer.add_callback(LadleCallback(trainer, val_set, every=4))
    trainer.train()
    assert names_in(tmp_path / "run/averaged") == ["mine.txt"]
    assert "is no result of Ladle" in caplog.text


def test_a_second_training_replaces_the_result_of_the_first(tmp_path: Path, service: Service, val_set: Path) -> None:
    for _ in range(2):
        trainer, _ = trainer_of(tmp_path / "run")
        trainer.add_callback(LadleCallback(trainer, val_set, every=4))
        trainer.train()
    assert names_in(tmp_path / "run") == ["averaged", "ladle"]
    assert [job["checkpoints"]["steps"] for job in service.jobs] == [[4, 8], [4, 8]]


def test_a_trainer_that_trains_again_averages_again(tmp_path: Path, service: Service, val_set: Path) -> None:
    trainer, _ = trainer_of(tmp_path / "run")
    trainer.add_callback(LadleCallback(trainer, val_set, every=4))
    trainer.train()
    trainer.train()
    assert [job["checkpoints"]["steps"] for job in service.jobs] == [[4, 8], [4, 8]]


def test_the_end_says_which_checkpoints_are_missing(
    tmp_path: Path, service: Service, val_set: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_kept_folder.os, "fsync", fails(errno.ENOSPC, 1))
    trainer, _ = trainer_of(tmp_path / "run")
    trainer.add_callback(LadleCallback(trainer, val_set, every=2))
    with pytest.warns(NotKeptWarning, match="The training goes on"):
        trainer.train()
    assert "The checkpoint of step 2 could not be kept" in caplog.text
    assert service.jobs[0]["checkpoints"]["steps"] == [4, 6, 8]


def test_a_resumed_training_continues(tmp_path: Path, service: Service, val_set: Path) -> None:
    home = tmp_path / "run"
    trainer, _ = trainer_of(home, save_strategy="steps", save_steps=3, max_steps=5)
    trainer.add_callback(LadleCallback(trainer, val_set, every=2))
    trainer.train()
    trainer, recorder = trainer_of(home, save_strategy="steps", save_steps=3, max_steps=8)
    trainer.add_callback(LadleCallback(trainer, val_set, every=2))
    trainer.train(resume_from_checkpoint=str(home / "checkpoint-3"))
    assert service.jobs[-1]["checkpoints"] == {"steps": [2, 4, 6, 8]}
    kept = load_file(home / "ladle/checkpoints/checkpoint-4/model.safetensors")
    assert torch.equal(kept["transformer.wte.weight"], recorder.states[4]["transformer.wte.weight"])


def test_of_a_model_with_adapters_only_the_adapters_are_kept(tmp_path: Path, service: Service, val_set: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    base = tmp_path / "base"
    small_model().save_pretrained(base)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=2, target_modules=["c_attn"], modules_to_save=["ln_f"], task_type="CAUSAL_LM"),
    )
    trainer, recorder = trainer_of(tmp_path / "run", model)
    callback = LadleCallback(trainer, val_set, every=4)
    trainer.add_callback(callback)
    trainer.train()
    kept = tmp_path / "run/ladle/checkpoints/checkpoint-8"
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(names_in(kept))
    assert (kept / "adapter_model.safetensors").stat().st_size < (base / "model.safetensors").stat().st_size
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), kept)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, recorder.states[8][name]), name
    assert any("lora_B" in name and value.abs().sum() > 0 for name, value in loaded.state_dict().items())
    assert service.jobs[0]["checkpoints"] == {"steps": [4, 8]}
    assert str(base) in service.roots, "which a stack of our own must be able to read"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"task": 3}, InvalidSpec, "`task`"),
        ({"methud": "twa"}, TypeError, "Did you mean `method`"),
        ({"val_set": "nowhere.npz"}, ValueError, "`val_set` must exist"),
        ({"every": 0}, ValueError, "`every` must be"),
    ],
)
def test_mistakes_are_told_before_the_training(
    tmp_path: Path, val_set: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    trainer, recorder = trainer_of(tmp_path / "run")
    with pytest.raises(error, match=words):
        trainer.add_callback(LadleCallback(trainer, **{"val_set": val_set, "every": 4, **options}))
        trainer.train()
    assert not recorder.states, "nothing was trained"


def test_checkpoints_that_the_trainer_removes_are_not_averaged_meanwhile(tmp_path: Path, val_set: Path) -> None:
    trainer, _ = trainer_of(tmp_path / "run", save_strategy="steps", save_steps=2, save_total_limit=2)
    with pytest.raises(ValueError, match="`average_every` must not be given together with `save_total_limit`"):
        LadleCallback(trainer, val_set, average_every=2)


def test_tensorboard_gets_the_numbers(tmp_path: Path, service: Service, val_set: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer, _ = trainer_of(tmp_path / "run", report_to="tensorboard")
    trainer.add_callback(LadleCallback(trainer, val_set, every=4))
    trainer.train()
    found = set()
    for file in (tmp_path / "run").rglob("events.out.*"):
        events = EventAccumulator(str(file))
        events.Reload()
        found |= set(events.Tags()["scalars"])
    assert any(name.endswith("ladle/accuracy") for name in found), found
