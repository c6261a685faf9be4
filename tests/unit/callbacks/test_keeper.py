"""Checkpoints are kept while a model trains: whole, exactly, and whatever happens."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import Tensor, nn

from ladle.callbacks import CheckpointKeeper, NotKept, NotKeptWarning, _kept_folder
from ladle_engine import combine_checkpoints
from ladle_engine.checkpoints.discover import discover
from tests.polling import DEADLINE_S

REPOSITORY = Path(__file__).parents[3]


class Small(nn.Module):
    """With a buffer, a counter, tied weights and a parameter that is a view of a larger one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.turned = nn.Parameter(torch.randn(3, 5).T)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.embed(tokens))) + self.turned.sum()
        return out


def trained(model: nn.Module, keeper: CheckpointKeeper, steps: range, seed: int = 0) -> dict[int, dict[str, Tensor]]:
    """Step -> the state after it, for each step."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.001)
    states = {}
    for step in steps:
        loss = model(torch.randint(0, 7, (6,), generator=generator)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        states[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        keeper.step(model, step)
    return states


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_mean_of_what_was_kept_is_the_mean_of_the_states_at_those_steps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with CheckpointKeeper(tmp_path / "kept", every=10, last=3) as keeper:
        states = trained(Small(), keeper, range(1, 56))
    assert keeper.steps == (30, 40, 50)
    for step in keeper.steps:
        kept = load_file(tmp_path / f"kept/checkpoint-{step}/model.safetensors")
        assert all(torch.equal(kept[name], states[step][name]) for name in kept)
    combine_checkpoints(tmp_path / "kept", output=tmp_path / "mean")
    mean = load_file(tmp_path / "mean/model.safetensors")
    for name in ("embed.weight", "turned", "norm.running_mean"):
        exact = torch.stack([states[step][name].double() for step in (30, 40, 50)]).mean(0).float()
        assert torch.equal(mean[name], exact), name


def test_tied_weights_are_named_once_and_the_file_loads_into_the_model(tmp_path: Path) -> None:
    model = Small()
    with CheckpointKeeper(tmp_path) as keeper:
        keeper.step(model, 1)
    file = tmp_path / "checkpoint-1/model.safetensors"
    with safe_open(file, "pt") as opened:
        assert len({"embed.weight", "head.weight"} & set(opened.keys())) == 1
        assert opened.metadata()["format"] == "pt"
    again = Small()
    assert load_model(again, file) == (set(), [])
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("every", "steps", "kept"),
    [
        (None, [0, 1, 2], [0, 1, 2]),
        (2, [0, 1, 2, 3, 4], [2, 4]),
        (100, [30, 96, 104, 180, 200, 260, 301], [104, 200, 301]),
        (100, [100, 150, 200], [100, 200]),
        (10, [10, 10, 10, 11], [10]),
    ],
)
def test_a_checkpoint_is_kept_when_the_step_passes_a_multiple(
    tmp_path: Path, every: int | None, steps: list[int], kept: list[int]
) -> None:
    model = nn.Linear(2, 2)
    with CheckpointKeeper(tmp_path, every=every) as keeper:
        assert [step for step in steps if keeper.step(model, step)] == kept
    assert [each.step for each in discover(tmp_path).checkpoints] == kept if len(kept) > 1 else True


@pytest.mark.parametrize("options", [{"every": 0}, {"every": 2.5}, {"last": 1}, {"last": True}])
def test_numbers_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be a whole number"):
        CheckpointKeeper(tmp_path, **options)


def test_a_folder_that_cannot_be_made_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`folder` must be a folder that can be written to"):
        CheckpointKeeper(tmp_path / "file" / "kept")


def test_metrics_and_the_config_lie_beside_the_weights(tmp_path: Path) -> None:
    with CheckpointKeeper(tmp_path, config={"ladle_task": "small-cnn"}) as keeper:
        keeper.step(nn.Linear(2, 2), 3, metrics={"loss": torch.tensor(0.5), "f1": float("nan")})  # type: ignore[dict-item]
    assert json.loads((tmp_path / "checkpoint-3/eval_results.json").read_text()) == {"loss": 0.5}
    assert json.loads((tmp_path / "checkpoint-3/config.json").read_text()) == {"ladle_task": "small-cnn"}


def test_what_is_kept_does_not_change_when_the_training_goes_on(tmp_path: Path) -> None:
    model = nn.Linear(300, 300)
    with CheckpointKeeper(tmp_path) as keeper:
        before = model.weight.detach().clone()
        keeper.step(model, 1)
        nn.init.zeros_(model.weight)
    assert torch.equal(load_file(tmp_path / "checkpoint-1/model.safetensors")["weight"], before)


def test_wrappers_leave_no_prefix_in_names(tmp_path: Path) -> None:
    with CheckpointKeeper(tmp_path) as keeper:
        keeper.step(torch.compile(nn.Linear(2, 2), backend="eager"), 1)
        keeper.step(nn.DataParallel(nn.Linear(2, 2)), 2)
    for step in (1, 2):
        assert set(load_file(tmp_path / f"checkpoint-{step}/model.safetensors")) == {"weight", "bias"}


def test_weights_that_deepspeed_has_split_are_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.weight.ds_id = 0  # type: ignore[assignment]
    keeper = CheckpointKeeper(tmp_path)
    with pytest.raises(ValueError, match="DeepSpeed ZeRO-3 has split them"):
        keeper.step(model, 1)
    assert names_in(tmp_path) == []


def fails(number: int, times: int) -> Callable[[int], None]:
    """An `os.fsync` that fails so many times."""
    fsync, left = os.fsync, [times]

    def failing(descriptor: int) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    return failing


def test_a_full_disk_does_not_end_the_training_and_the_end_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(2, 2)
    keeper = CheckpointKeeper(tmp_path)
    monkeypatch.setattr(_kept_folder.os, "fsync", fails(errno.ENOSPC, 2))
    keeper.step(model, 1)
    with pytest.warns(NotKeptWarning, match="of step 1 could not be kept .* No space left on device"):
        keeper.step(model, 2)
    with pytest.warns(NotKeptWarning, match="of step 2 could not be kept"):
        keeper.step(model, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keeper.step(model, 4)
    with pytest.raises(NotKept, match=r"2 checkpoints, of steps 1, 2 could not be kept .*: No space left") as raised:
        keeper.close()
    assert sorted(raised.value.steps) == [1, 2]
    assert names_in(tmp_path) == ["checkpoint-3", "checkpoint-4"], "nothing of the others is left"


def test_a_step_that_is_kept_after_all_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = CheckpointKeeper(tmp_path)
    monkeypatch.setattr(_kept_folder.os, "fsync", fails(errno.EIO, 1))
    keeper.step(nn.Linear(2, 2), 1)
    with pytest.warns(NotKeptWarning):
        keeper.step(nn.Linear(2, 2), 1)
    keeper.close()


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    tmp_path.joinpath("small").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", tmp_path / "small"], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        keeper = CheckpointKeeper(tmp_path / "small/kept")
        model = nn.Linear(200, 200)  # 160 kB
        keeper.step(model, 1)
        keeper.step(model, 2)
        with pytest.warns(NotKeptWarning, match="of step 2"):
            keeper.step(nn.Linear(2, 2), 3)
        with pytest.raises(NotKept, match="of step 2"):
            keeper.close()
        assert names_in(tmp_path / "small/kept") == ["checkpoint-1", "checkpoint-3"]
    finally:
        subprocess.run(["umount", tmp_path / "small"], check=True)


def test_an_error_of_the_training_is_not_hidden_by_one_of_keeping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_kept_folder.os, "fsync", fails(errno.ENOSPC, 1))
    with pytest.raises(KeyError, match="of the training"), CheckpointKeeper(tmp_path) as keeper:
        keeper.step(nn.Linear(2, 2), 1)
        raise KeyError("of the training")
    assert "ladle: The checkpoint of step 1 could not be kept" in capsys.readouterr().err


PROGRAM = """
import os, sys
import torch
from torch import nn
from ladle.callbacks import CheckpointKeeper, _kept_folder
keeper = CheckpointKeeper(sys.argv[1], last=3)
real = _kept_folder.put_in_place
def dying(new, place, *, aside):
    if place.name == "checkpoint-3":
        os._exit(9)
    real(new, place, aside=aside)
_kept_folder.put_in_place = dying
torch.manual_seed(0)
for step in (1, 2, 3, 4):
    keeper.step(nn.Linear(3, 3), step)
"""


def test_a_process_killed_in_the_middle_of_a_write_leaves_nothing_for_readers_and_the_next_one_continues(
    tmp_path: Path,
) -> None:
    done = in_process(PROGRAM, tmp_path / "kept")
    assert done.returncode == 9, done.stderr
    assert [name.startswith(".checkpoint-3.") for name in names_in(tmp_path / "kept")] == [True, False, False]
    assert [each.name for each in discover(tmp_path / "kept").checkpoints] == ["checkpoint-1", "checkpoint-2"]
    with CheckpointKeeper(tmp_path / "kept", last=3) as keeper:
        for step in (3, 4):
            keeper.step(nn.Linear(3, 3), step)
    assert names_in(tmp_path / "kept") == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]


def test_one_killed_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path: Path) -> None:
    with CheckpointKeeper(tmp_path) as keeper:
        keeper.step(nn.Linear(2, 2), 1)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (tmp_path / "checkpoint-1").rename(tmp_path / f".checkpoint-1.{int(ended.stdout)}.replaced")
    with CheckpointKeeper(tmp_path) as keeper:
        keeper.step(nn.Linear(2, 2), 2)
    assert keeper.steps == (1, 2)


def test_a_training_that_is_resumed_writes_steps_that_come_again_anew(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Small()
    with CheckpointKeeper(tmp_path, every=10, last=3) as keeper:
        trained(model, keeper, range(1, 36))
    with CheckpointKeeper(tmp_path, every=10, last=3) as keeper:
        states = trained(model, keeper, range(26, 51), seed=1)
    assert keeper.steps == (30, 40, 50)
    for step in keeper.steps:
        kept = load_file(tmp_path / f"checkpoint-{step}/model.safetensors")
        assert torch.equal(kept["turned"], states[step]["turned"])


def test_checkpoints_of_an_earlier_training_that_went_further_are_not_averaged_and_stay(tmp_path: Path) -> None:
    with CheckpointKeeper(tmp_path, every=10) as keeper:
        trained(Small(), keeper, range(1, 61))
    with CheckpointKeeper(tmp_path, every=10) as keeper:
        trained(Small(), keeper, range(1, 31))
    assert keeper.steps == (10, 20, 30)
    assert keeper.choosing({"metric": "loss"}) == {"metric": "loss", "checkpoints": {"steps": [10, 20, 30]}}
    assert keeper.choosing({"checkpoints": "check*"})["checkpoints"] == {"steps": [10, 20, 30], "pattern": "check*"}
    assert len(names_in(tmp_path)) == 6


def test_checkpoints_that_are_in_use_are_removed_later(tmp_path: Path) -> None:
    keeper = CheckpointKeeper(tmp_path, last=2)
    in_use = {1}
    keeper.in_use = lambda: in_use
    for step in (1, 2, 3, 4):
        keeper.step(nn.Linear(2, 2), step)
    assert keeper.steps == (3, 4)
    assert names_in(tmp_path) == ["checkpoint-1", "checkpoint-3", "checkpoint-4"]
    assert keeper.choosing({}) == {"checkpoints": {"steps": [3, 4]}}
    in_use.clear()
    keeper.step(nn.Linear(2, 2), 5)
    assert keeper.steps == (4, 5)
    assert names_in(tmp_path) == ["checkpoint-4", "checkpoint-5"]
    keeper.close()


def test_a_program_that_ends_without_close_still_finishes_the_write_and_says_what_is_missing(tmp_path: Path) -> None:
    program = """
import errno, os, sys
from torch import nn
from ladle.callbacks import CheckpointKeeper, _kept_folder
keeper = CheckpointKeeper(sys.argv[1])
keeper.step(nn.Linear(2000, 2000), 1)
keeper.flush()
def full(descriptor): raise OSError(errno.ENOSPC, "No space left on device")
_kept_folder.os.fsync = full
keeper.step(nn.Linear(2, 2), 2)
"""
    done = in_process(program, tmp_path / "kept")
    assert done.returncode == 0, done.stderr
    assert "The checkpoint of step 2 could not be kept" in done.stderr
    assert names_in(tmp_path / "kept") == ["checkpoint-1"]


def in_process(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, folder], cwd=REPOSITORY, capture_output=True, text=True, timeout=DEADLINE_S
    )
