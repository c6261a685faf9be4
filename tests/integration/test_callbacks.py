"""From a training straight to Ladle, with the real service: a stack that is started for it, or one that is there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from ladle_small_cnn import SmallCnn
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ladle import Client, _stack_file
from ladle.callbacks import CheckpointKeeper
from ladle.callbacks.transformers import LadleCallback
from ladle.cli.hosted import hosted_stack
from ladle.cli.stack import StackError
from ladle.curve import read
from tests.builders import CONFIG, make_checkpoints, make_val_set
from tests.polling import DEADLINE_S, until
from tests.servers import is_alive
from tests.unit.callbacks.test_transformers import trainer_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("LADLE_URL", "LADLE_TOKEN", "LADLE_REDIS_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_stack_file.platformdirs, "user_state_path", lambda name: tmp_path / "state" / name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def stack(data: Path) -> Iterator[Client]:
    with hosted_stack([data], data / "results") as client:
        yield client


@pytest.fixture
def at_the_stack(stack: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LADLE_URL", str(stack.address))
    monkeypatch.setenv("LADLE_TOKEN", str(stack.address.token))


def tokens(path: Path) -> Path:
    """A validation set for the Trainer's small GPT-2."""
    np.save(path, np.random.default_rng(0).integers(0, 32, 2000).astype(np.uint16))
    return path


def test_without_a_service_the_callback_brings_its_own_stack_and_takes_it_down(tmp_path: Path) -> None:
    home, val_set = tmp_path / "run", tokens(tmp_path / "val.npy")
    trainer, recorder = trainer_of(home)
    trainer.add_callback(LadleCallback(trainer, val_set, every=2, method="uniform"))
    trainer.train()
    report = json.loads((home / "averaged/report.json").read_text())
    assert [each["name"] for each in report["checkpoints"]] == [f"checkpoint-{step}" for step in (2, 4, 6, 8)]
    loaded = AutoModelForCausalLM.from_pretrained(home / "averaged").state_dict()
    if report["winner"] == "uniform":
        states = [recorder.states[step] for step in (2, 4, 6, 8)]
        expected = {name: torch.stack([state[name].double() for state in states]).mean(0).float() for name in loaded}
    else:
        best = next(each for each in report["candidates"] if each["method"] == "best")
        row = best["coefficients"][0]
        expected = recorder.states[(2, 4, 6, 8)[row.index(1.0)]]
    assert all(torch.equal(value, expected[name]) for name, value in loaded.items())
    scores = {each["method"]: each["select"] for each in report["candidates"]}
    logged: dict[str, Any] = next(each for each in recorder.logged if "ladle/loss" in each)
    assert logged["ladle/loss"] == pytest.approx(scores[report["winner"]]["loss"])
    assert logged["ladle/best_loss"] == pytest.approx(scores["best"]["loss"])
    assert logged["ladle/last_loss"] == pytest.approx(report["checkpoints"][-1]["select"]["means"]["loss"])
    assert [point.step for point in read(home / "ladle/curve.jsonl")] == [8]
    until(lambda: not psutil.Process().children(recursive=True), what="the stack to end")


def test_a_service_averages_while_the_training_goes_on(data: Path, at_the_stack: None) -> None:
    home, val_set = data / "trainer", tokens(data / "val.npy")
    trainer, recorder = trainer_of(home, max_steps=30)
    trainer.add_callback(LadleCallback(trainer, val_set, every=5, average_every=2, last=3))
    trainer.train()
    points = read(home / "ladle/curve.jsonl")
    assert points[-1].step == 30
    assert [each["ladle/step"] for each in recorder.logged if "ladle/step" in each] == [point.step for point in points]
    kept = sorted(path.name for path in (home / "ladle/checkpoints").iterdir())
    assert kept == ["checkpoint-20", "checkpoint-25", "checkpoint-30"]
    assert (home / "averaged/model.safetensors").exists()


def test_a_plain_loop_averages_at_a_service(data: Path, at_the_stack: None) -> None:
    source = make_checkpoints(data / "source", count=3)
    with CheckpointKeeper(
        data / "plain", config={"ladle_task": "small-cnn", **CONFIG, "width": 4, "batch_norm": False}
    ) as keeper:
        model = SmallCnn(**CONFIG, width=4, batch_norm=False)
        for step in (1, 2, 3):
            model.load_state_dict(load_file(source / f"epoch-{step}.safetensors"))
            keeper.step(model, step)
    result = keeper.average(make_val_set(data / "val.npz"), metric="loss")
    assert result is not None
    assert (result.metric, result.num_checkpoints) == ("loss", 3)
    assert (Path(result.folder) / "model.safetensors").exists()


PREPARED = """
import json, os, sys, traceback
import torch
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(0)
config = GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
model = GPT2LMHeadModel(config)
rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 32, (64, 8))]
loader = torch.utils.data.DataLoader(rows, batch_size=4)
batches = [batch for _ in range(20) for batch in loader]
optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
validation = loader
def loss(model, batch):
    return model(**batch).loss

import lightning.pytorch
class Module(lightning.pytorch.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = model
    def training_step(self, batch, number):
        return self.model(**batch).loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.1)
module = Module()

# Each snippet in a process of its own, as if it alone had been run: to import all this again would take ten seconds.
for snippet in json.loads(sys.argv[1]):
    if (child := os.fork()) == 0:
        try:
            exec(compile(snippet, "snippet", "exec"))
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, snippet
"""
PAGE = (REPOSITORY / "docs/from-training.md").read_text()


def test_the_snippets_of_the_page_run(data: Path, at_the_stack: None) -> None:
    folder = data / "page"
    folder.mkdir()
    tokens(folder / "val.npy")
    snippets = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(snippets) == 4
    done = subprocess.run(
        [sys.executable, "-c", PREPARED, json.dumps(snippets)], cwd=folder, capture_output=True, text=True,
        timeout=4 * DEADLINE_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for averaged in ("runs/b/averaged", "lightning_logs/version_0/averaged", "runs/a/averaged"):
        assert (folder / averaged / "model.safetensors").exists(), averaged


def test_the_end_need_not_wait(
    data: Path, stack: Client, at_the_stack: None, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, _ = trainer_of(data / "unwaited")
    trainer.add_callback(LadleCallback(trainer, tokens(data / "val.npy"), every=4, wait=False))
    trainer.train()
    (said,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Ladle: job"))
    assert stack.job(said.split()[2]).result().num_checkpoints == 2


def test_a_service_that_is_away_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LADLE_URL", "http://127.0.0.1:9")
    trainer, _ = trainer_of(tmp_path / "run")
    trainer.add_callback(LadleCallback(trainer, tokens(tmp_path / "val.npy"), every=4))
    trainer.train()
    assert "could not be averaged" in caplog.text
    assert f"ladle run {tmp_path / 'run/ladle/checkpoints'}" in caplog.text


def test_a_stack_ends_when_the_training_is_killed(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
import psutil
from ladle.cli.hosted import hosted_stack
with hosted_stack([Path(sys.argv[1])], Path(sys.argv[1]) / "results"):
    print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=REPOSITORY,
    ) as training:  # fmt: skip
        assert training.stdout is not None
        children = [psutil.Process(int(pid)) for pid in training.stdout.readline().split()]
        assert len(children) >= 4, "the host, Redis, the service and the worker"
        os.kill(training.pid, signal.SIGKILL)
        training.wait(DEADLINE_S)
    until(lambda: not any(map(is_alive, children)), what="the stack to end")


def test_a_stack_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LADLE_REDIS_URL", "ignored, because such a stack is private")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "client"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match="ended before it was ready"), hosted_stack([tmp_path], tmp_path / "file"):
        pass
