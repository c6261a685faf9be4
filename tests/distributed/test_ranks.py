"""Real ranks over gloo: the same model as one process makes, and errors that reach everybody."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.builders import make_checkpoints, make_val_set
from tests.distributed.start import FORKED, TORCHRUN, run_program

OPTIONS = {"options": {"twa": {"steps": 16}, "twa-layerwise": {"steps": 16}}}

RANK = """
import json, sys
import torch
import torch.distributed as dist
from ladle_engine import EngineError, average
from datetime import timedelta
from tests.distributed.start import end_rank
dist.init_process_group("gloo", timeout=timedelta(seconds=10))
data, output, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
if room := options.pop("room", None):
    from ladle_engine.placements import memory_plan as preflight
    preflight.available_bytes = lambda device: room[dist.get_rank()]
    # What a trial step takes is noise beside so little room.
    from ladle_engine.placements import memory_probe
    memory_probe.available_bytes = preflight.available_bytes
    memory_probe.PeakMemory.__exit__ = lambda self, *error: None
if (small := options.pop("runs_out", None)) is not None:
    from ladle_engine.placements import model_weights
    open_directions, tries = model_weights.open_directions, []
    def run_out(checkpoints, buckets, precision, *rest):
        tries.append(precision)
        if small == dist.get_rank() and len(tries) == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return open_directions(checkpoints, buckets, precision, *rest)
    model_weights.open_directions = run_out
    from ladle_engine.pipeline.trial_step import TrialStep
    run_trial, trials = TrialStep.run, []
    def run_out_too(self):
        trials.append(1)
        run_trial(self)
        # The first measures; the second tries the first plan that could be opened.
        if small == dist.get_rank() and len(trials) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
    TrialStep.run = run_out_too
if options.pop("first_trial_runs_out", None) == dist.get_rank():
    from ladle_engine.pipeline.trial_step import TrialStep
    def run_out_at_once(self):
        torch.empty(1 << 58)
    TrialStep.run = run_out_at_once
if dist.get_rank() == options.pop("elsewhere", None):
    data += "-elsewhere"
if options.pop("slow_write", False):
    import time
    module = sys.modules["ladle_engine.average"]
    write = module.write_output
    module.write_output = lambda *a, **k: (time.sleep(15), write(*a, **k))[1]
if options.pop("count_calls", False):
    from ladle_small_cnn import SmallCnnTask
    calls = []
    evaluate = SmallCnnTask.evaluate
    SmallCnnTask.evaluate = lambda task, *given: (calls.append(1), evaluate(task, *given))[1]
else:
    calls = None
try:
    outcome = average(f"{data}/checkpoints", f"{data}/val.npz", output=output, **options)
    said = {"method": outcome.method, "files": sorted(outcome.files), "gain": outcome.gain}
    said |= {"calls": len(calls)} if calls is not None else {}
except EngineError as error:
    said = {"code": error.code}
# A file each: what ranks print at once is woven together.
with open(f"{output}.rank-{dist.get_rank()}.json", "w") as file:
    json.dump(said, file)
end_rank()
"""


def run_ranks(
    ranks: int, data: Path, output: Path, launcher: Sequence[str] = FORKED, **options: Any
) -> list[dict[str, Any]]:
    """What each rank said, by rank."""
    script = output.parent / "rank.py"
    script.write_text(RANK)
    run_program(ranks, str(script), str(data), str(output), json.dumps(options), launcher=launcher)
    return [json.loads(Path(f"{output}.rank-{rank}.json").read_text()) for rank in range(ranks)]


def alphas(folder: Path) -> dict[str, torch.Tensor]:
    saved = json.loads((folder / "coefficients.json").read_text())
    return {name: torch.tensor(entry["alpha"]) for name, entry in saved["candidates"].items()}


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_make_the_model_that_one_process_makes(tmp_path: Path, ranks: int) -> None:
    make_checkpoints(tmp_path / "checkpoints")
    # Neither the batch of 128 nor the splits divide by three.
    make_val_set(tmp_path / "val.npz", count=305)
    (alone,) = run_ranks(1, tmp_path, tmp_path / "one", method_options=OPTIONS)
    together = run_ranks(ranks, tmp_path, tmp_path / "many", launcher=TORCHRUN, method_options=OPTIONS)
    assert {line["method"] for line in together} == {alone["method"]}
    assert {line["gain"] for line in together} == {alone["gain"]}
    assert together[0]["files"] == alone["files"]
    assert all(line["files"] == [] for line in together[1:]), "rank 0 alone writes"
    one, many = alphas(tmp_path / "one"), alphas(tmp_path / "many")
    assert one.keys() == many.keys()
    for method in one:
        assert torch.allclose(one[method], many[method], atol=1e-6), method
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "many")]
    for name, tensor in models[0].items():
        assert torch.allclose(tensor, models[1][name], atol=1e-6), name
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.slow
def test_more_ranks_than_examples_in_a_batch_still_work(tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "checkpoints")
    make_val_set(tmp_path / "val.npz", count=20)
    options: dict[str, Any] = {"method": "twa", "method_options": {"steps": 3}, "task_options": {"batch_size": 2}}
    said = run_ranks(3, tmp_path, tmp_path / "out", **options)
    assert {line["method"] for line in said} <= {"best", "twa"}
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_rank_calls_the_model_equally_often(tmp_path: Path, ranks: int) -> None:
    make_checkpoints(tmp_path / "checkpoints")
    make_val_set(tmp_path / "val.npz", count=1009)
    methods = {"methods": ["best", "second-best", "uniform", "last-k", "ema", "profile", "greedy-soup"]}
    options: dict[str, Any] = {"method_options": methods, "task_options": {"batch_size": 16}}
    (alone,) = run_ranks(1, tmp_path, tmp_path / "one", count_calls=True, **options)
    together = run_ranks(ranks, tmp_path, tmp_path / "many", count_calls=True, **options)
    (calls,) = {line["calls"] for line in together}
    assert alone["calls"] / ranks <= calls < alone["calls"]
    assert {(line["method"], line["gain"]) for line in together} == {(alone["method"], alone["gain"])}
    one, many = alphas(tmp_path / "one"), alphas(tmp_path / "many")
    assert all(torch.equal(one[method], many[method]) for method in methods["methods"])


def test_bad_input_reaches_every_rank_with_one_code(tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "checkpoints")
    make_val_set(tmp_path / "val.npz")
    path = tmp_path / "checkpoints" / "epoch-2.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    said = run_ranks(2, tmp_path, tmp_path / "out")
    assert [line["code"] for line in said] == ["corrupt-checkpoint"] * 2
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_with_batch_norm_two_ranks_make_what_one_makes(tmp_path: Path) -> None:
    """Batch statistics are taken over all ranks, in training and when they are recomputed for the result."""
    make_checkpoints(tmp_path / "checkpoints", batch_norm=True)
    make_val_set(tmp_path / "val.npz", count=1060)
    options: dict[str, Any] = {"method": "twa-layerwise", "method_options": {"steps": 8}}
    run_ranks(1, tmp_path, tmp_path / "one", **options)
    said = run_ranks(2, tmp_path, tmp_path / "two", **options)
    assert len({(line["method"], line["gain"]) for line in said}) == 1
    one, two = alphas(tmp_path / "one")["twa-layerwise"], alphas(tmp_path / "two")["twa-layerwise"]
    assert (one - 1 / 4).abs().max() > 0.02, "it must have gone somewhere"
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
    statistics = [load_file(tmp_path / name / "statistics.safetensors") for name in ("one", "two")]
    for name, tensor in statistics[0].items():
        torch.testing.assert_close(tensor, statistics[1][name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_the_rank_with_the_least_memory_decides_how_all_keep_their_directions(tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "checkpoints")
    make_val_set(tmp_path / "val.npz")
    # 1,034 parameters, 4 checkpoints: 12 KB of centre and gradient, 5 of Gram matrices, 16 of directions as float32.
    options = {"method": "twa", "method_options": {"steps": 4}, "placement": "replicated"}
    run_ranks(2, tmp_path, tmp_path / "out", room=[1 << 30, 36_000], **options)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["memory"]["precision"] == "bfloat16"


@pytest.mark.slow
def test_a_rank_that_alone_runs_out_of_memory_takes_all_to_the_next_precision(tmp_path: Path) -> None:
    """Once where it opens directions and once in its trial step, which the others must not wait for: BatchNorm."""
    make_checkpoints(tmp_path / "checkpoints", batch_norm=True)
    make_val_set(tmp_path / "val.npz", count=1060)
    options = {"method": "twa", "method_options": {"steps": 4}, "placement": "replicated"}
    run_ranks(2, tmp_path, tmp_path / "out", runs_out=1, **options)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["memory"]["precision"] == "int8"
    assert sum("ran out of memory" in warning for warning in report["warnings"]) == 2


def test_a_first_pass_that_one_rank_has_no_room_for_ends_all_with_one_code(tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "checkpoints")
    make_val_set(tmp_path / "val.npz")
    said = run_ranks(2, tmp_path, tmp_path / "out", method="twa", first_trial_runs_out=1)
    assert said == [{"code": "out-of-memory"}] * 2


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["by-parameter", "by-checkpoint", "sharded-model"])
def test_coarse_directions_are_judged_as_they_are_written_in_every_placement(tmp_path: Path, placement: str) -> None:
    make_checkpoints(tmp_path / "checkpoints")
    make_val_set(tmp_path / "val.npz")
    options: dict[str, Any] = {"method": "uniform"}
    run_ranks(1, tmp_path, tmp_path / "one", **options)
    run_ranks(2, tmp_path, tmp_path / "two", precision="int4", placement=placement, **options)
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two")]
    assert reports[1]["memory"]["precision"] == "int4"
    one, two = ({row["method"]: row["select"]["loss"] for row in report["candidates"]} for report in reports)
    assert two == pytest.approx(one, rel=1e-6)


def test_ranks_that_see_other_files_are_refused(tmp_path: Path) -> None:
    for name in ("data", "data-elsewhere"):
        make_checkpoints(tmp_path / name / "checkpoints", count=4 if name == "data" else 3)
        make_val_set(tmp_path / name / "val.npz")
    said = run_ranks(2, tmp_path / "data", tmp_path / "out", elsewhere=1)
    assert [line["code"] for line in said] == ["mismatched-checkpoints"] * 2


@pytest.mark.slow
def test_a_write_that_takes_longer_than_collectives_may_stops_no_rank(tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "checkpoints")
    make_val_set(tmp_path / "val.npz")
    said = run_ranks(2, tmp_path, tmp_path / "out", method="uniform", slow_write=True)
    assert "model.safetensors" in said[0]["files"]
