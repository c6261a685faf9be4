"""Runs in sub-folders, lists and globs of folders, and checkpoints that are made of several models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file

from ladle_engine import CheckpointError, average, combine_checkpoints, discover, rebuild
from ladle_engine.checkpoints import folder_scan
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints

MODEL = "model.safetensors"


def write(folder: Path, *names: str, start: float = 0.0) -> Path:
    """A checkpoint of its own values under each name: a file, or a folder for a name without a suffix."""
    for number, name in enumerate(names, start=1):
        path = folder / name if Path(name).suffix else folder / name / MODEL
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {"w": torch.full((4,), start + number)}
        save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return folder


def sweep(folder: Path, runs: int = 2, steps: tuple[int, ...] = (40, 80)) -> Path:
    for run in range(runs):
        write(folder / f"run-{run}", *(f"checkpoint-{step}" for step in steps), start=10.0 * run)
    return folder


ALL = ("run-0/checkpoint-40", "run-0/checkpoint-80", "run-1/checkpoint-40", "run-1/checkpoint-80")


def refused(*given: object, **filters: object) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        discover(*given, **filters)  # type: ignore[arg-type]
    return caught.value


def value(output: Path) -> float:
    (file,) = output.glob("*.safetensors")
    return float(load_file(file)["w"][0])


@pytest.mark.parametrize(
    "below",
    [
        "run-{}/checkpoint-{}", "lr{}e-4/step_{}.pt", "lightning_logs/version_{}/checkpoints/step={}.ckpt",
        "epoch{}_wd/{}.pt", "model-{}/checkpoint-{}", "2026-01-0{}/12-00-00/ckpt/step_{}.pth.tar",
        "seed {}/weights/epoch{}.pt", "a{}/b/c/d/e/step-{}.safetensors",
    ],
)  # fmt: skip
def test_the_runs_below_a_folder_are_found_however_they_are_named(tmp_path: Path, below: str) -> None:
    names = tuple(below.format(run, step) for run in (1, 2) for step in (9, 10))
    write(tmp_path, *names)
    found = discover(tmp_path)
    assert found.names == names, "run after run, and in each by its steps"
    assert [each.step for each in found.checkpoints] == [9, 10, 9, 10]
    assert found.order.startswith("run, then ")


def test_what_is_deeper_than_runs_ever_are_is_not_looked_at(tmp_path: Path) -> None:
    write(tmp_path / "1/2/3/4/5/6/7/8", "step-1.pt", "step-2.pt")
    assert refused(tmp_path).code == "no-checkpoints"


def test_so_many_folders_are_looked_at_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_scan, "MOST_FOLDERS", 3)
    sweep(tmp_path, runs=5)
    assert "`run-0`" in str(error := refused(tmp_path))
    assert "(not looked into: there are more than 3 folders)" in str(error)


def test_a_folder_with_checkpoints_of_its_own_is_one_run(tmp_path: Path) -> None:
    write(sweep(tmp_path), "epoch-1.pt", "epoch-2.pt")
    found = discover(tmp_path)
    assert found.names == ("epoch-1.pt", "epoch-2.pt")
    assert "`run-0`, `run-1` (holds folders with checkpoints: give it as `ckpt_dir=` to average them)" in str(
        found.warnings
    )


@pytest.mark.parametrize("name", ["wandb", "node_modules", ".cache"])
def test_folders_of_copies_and_of_other_programs_are_not_looked_into(tmp_path: Path, name: str) -> None:
    sweep(tmp_path)
    write(tmp_path / name / "run-9", "checkpoint-1", "checkpoint-2", start=50.0)
    assert discover(tmp_path).names == ALL


def test_a_link_to_a_run_does_not_count_it_twice(tmp_path: Path) -> None:
    sweep(tmp_path)
    (tmp_path / "latest").symlink_to(tmp_path / "run-1")
    (tmp_path / "run-0" / "loop").symlink_to(tmp_path)
    found = discover(tmp_path)
    assert found.names == ALL
    assert found.warnings == ()


def test_the_order_of_several_runs_is_in_doubt_and_can_be_chosen(tmp_path: Path) -> None:
    write(tmp_path / "version_0", "step=100.pt", "step=200.pt")
    write(tmp_path / "version_1", "step=150.pt", "step=250.pt", start=10.0)
    found = discover(tmp_path)
    assert found.doubt is not None
    assert "must be of one run to have an order, but are of 2: `version_0`, `version_1`" in found.doubt
    error = refused(tmp_path, last=2)
    assert error.code == "ambiguous-order"
    by_step = ("version_0/step=100.pt", "version_1/step=150.pt", "version_0/step=200.pt", "version_1/step=250.pt")
    ordered = discover(tmp_path, order="step")
    assert ordered.names == by_step
    assert ordered.doubt is None
    assert discover(tmp_path, order="step", last=2).names == by_step[2:]
    assert discover(tmp_path, pattern="version_1", last=1, order="auto", names=by_step[1:2]).names == by_step[1:2]


def test_a_model_above_the_checkpoints_of_one_run_is_of_that_run(tmp_path: Path) -> None:
    write(tmp_path, "final", start=20.0)
    write(tmp_path / "checkpoints", "checkpoint_0", "checkpoint_1")
    found = discover(tmp_path)
    assert found.names == ("checkpoints/checkpoint_0", "checkpoints/checkpoint_1", "final")
    assert found.doubt is None


def test_models_in_folders_of_their_own_are_no_runs(tmp_path: Path) -> None:
    write(tmp_path, "bert-a", "bert-b", "bert-c")
    found = discover(tmp_path)
    assert found.names == ("bert-a", "bert-b", "bert-c")
    assert found.doubt is None


def test_globs_and_lists_name_checkpoints_relative_to_the_folder_that_holds_all(tmp_path: Path) -> None:
    sweep(tmp_path / "sweeps")
    write(tmp_path / "other", "checkpoint-7", "checkpoint-8", start=30.0)
    assert discover(tmp_path / "sweeps" / "run-*").names == ALL
    assert discover(tmp_path / "sweeps" / "run-[01]" / "checkpoint-80").names == (ALL[1], ALL[3])
    assert discover([tmp_path / "sweeps" / "run-1" / "*40", str(tmp_path / "sweeps" / "run-0")]).names == ALL[:3]
    found = discover([str(tmp_path / "other"), tmp_path / "sweeps"])
    assert found.folder == tmp_path
    assert found.names == ("other/checkpoint-7", "other/checkpoint-8", *(f"sweeps/{name}" for name in ALL))
    assert discover([tmp_path / "sweeps", tmp_path / "sweeps" / "run-0"]).names == tuple(
        f"sweeps/{name}" for name in ALL
    ), "what is given twice counts once"


def test_a_glob_may_match_files(tmp_path: Path) -> None:
    for run in range(3):
        write(tmp_path / f"run {run}", "best.pt", "last.pt", "log.safetensors.txt.pt", start=10.0 * run)
    found = discover(tmp_path / "*" / "best.pt")
    assert found.names == ("run 0/best.pt", "run 1/best.pt", "run 2/best.pt")
    assert value(combine_checkpoints(tmp_path / "*" / "best.pt", output=tmp_path / "out")) == 11.0


def test_a_path_that_is_there_is_no_glob(tmp_path: Path) -> None:
    write(tmp_path / "run[0]*", "epoch-1.pt", "epoch-2.pt")
    assert discover(tmp_path / "run[0]*").names == ("epoch-1.pt", "epoch-2.pt")
    assert discover(tmp_path / "run[0]*" / "epoch-?.pt").names == ("epoch-1.pt", "epoch-2.pt")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["{}/gone-*"], "must match something, but `{}/gone-*` matches nothing"),
        (["{}/run-0", "{}/gone"], "must name folders or files that exist, but `{}/gone` is none"),
        (["{}/run-0/*.txt", "{}/run-0"], "must match something"),
    ],
)
def test_what_names_nothing_is_refused_by_its_path(tmp_path: Path, given: list[str], words: str) -> None:
    sweep(tmp_path)
    error = refused([each.format(tmp_path) for each in given])
    assert error.code == "no-checkpoints"
    assert words.format(tmp_path) in str(error)


def test_what_is_no_path_or_a_deep_glob_is_refused_with_its_rule(tmp_path: Path) -> None:
    for wrong in (3, [], [tmp_path, 3], None):
        with pytest.raises(ValueError, match=r"`ckpt_dir` must be a path, or .*, but"):
            discover(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be a glob without `\*\*`"):
        discover(tmp_path / "**" / "checkpoint-*")


def test_a_glob_finds_nothing_outside_by_a_link_and_hides_what_is_hidden(tmp_path: Path) -> None:
    sweep(tmp_path / "in")
    write(tmp_path / "out", "checkpoint-1", "checkpoint-2", start=50.0)
    write(tmp_path / "in" / ".run-2", "checkpoint-1", start=60.0)
    (tmp_path / "in" / "run-1" / "checkpoint-99").symlink_to(tmp_path / "out" / "checkpoint-1")
    assert discover(tmp_path / "in" / "*", exclude="*99").names == ALL
    assert refused(tmp_path / "in" / "*").code == "path-not-allowed"


def test_patterns_match_runs_checkpoints_and_whole_names(tmp_path: Path) -> None:
    sweep(tmp_path)
    assert discover(tmp_path, pattern="run-1").names == ALL[2:]
    assert discover(tmp_path, pattern="checkpoint-80").names == (ALL[1], ALL[3])
    assert discover(tmp_path, pattern="run-?/checkpoint-4*").names == (ALL[0], ALL[2])
    assert discover(tmp_path, exclude=["run-0/checkpoint-40", "checkpoint-80"], names=ALL).names == ALL


def test_side_files_are_those_of_the_references_run(tmp_path: Path) -> None:
    sweep(tmp_path)
    for run in (0, 1):
        (tmp_path / f"run-{run}" / "tokenizer.json").write_text(json.dumps(run))
        (tmp_path / f"run-{run}" / "config.json").write_text(json.dumps({"dropout": run, "hidden_size": 4}))
    (tmp_path / "special_tokens_map.json").write_text("{}")
    output = combine_checkpoints(tmp_path, output=tmp_path / "out")
    assert (output / "tokenizer.json").read_text() == "1"
    assert json.loads((output / "config.json").read_text())["dropout"] == 1
    assert (output / "special_tokens_map.json").exists()
    assert discover(tmp_path).warnings == (
        "`config.json` of `run-0` differs in `dropout` from that of `run-1`, which is used.",
    )


def test_the_best_of_all_runs_is_judged_and_the_result_is_built_anew_from_the_list(tmp_path: Path) -> None:
    given = [tmp_path / "runs" / f"run-{run}" for run in range(3)]
    for run, folder in enumerate(given):
        write_checkpoints(folder, plain_net, count=2, seed=run)
    output = tmp_path / "out"
    average(given, tmp_path, output=output, task=ToyTask(plain_net), method="uniform")
    report = json.loads((output / "report.json").read_text())
    assert len(report["checkpoints"]) == 6
    for number, source in enumerate((given, tmp_path / "runs")):
        again = rebuild(output, source, output=tmp_path / f"again-{number}")
        expected = load_file(output / MODEL)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in load_file(again / MODEL).items())


def pipeline(folder: Path, start: float = 0.0) -> None:
    for number, name in enumerate(("unet", "vae")):
        write(folder / name, "diffusion_pytorch_model.safetensors", start=start + 100 * number)
        (folder / name / "config.json").write_text(json.dumps({"_class_name": name}))


def test_one_model_of_a_pipeline_is_chosen_by_name(tmp_path: Path) -> None:
    """As diffusers' training scripts leave it: checkpoints, and the whole pipeline at the top."""
    for step in (1, 2):
        pipeline(tmp_path / f"checkpoint-{step}", float(step))
    pipeline(tmp_path, 3.0)
    (tmp_path / "model_index.json").write_text("{}")
    error = refused(tmp_path)
    assert "made of several models, `unet`, `vae`: choose one with `component=`" in str(error)
    found = discover(tmp_path, component="unet")
    assert found.names == ("checkpoint-1/unet", "checkpoint-2/unet", "unet")
    assert value(combine_checkpoints(tmp_path, output=tmp_path / "out", component="unet")) == 3.0
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"_class_name": "unet"}
    error = refused(tmp_path, component="text_encoder")
    assert "`component=` must name one of the models" in str(error)
    assert "`unet`, `vae`" in str(error)
    assert discover(tmp_path, names=found.names).names == found.names


def test_one_file_of_several_models_is_chosen_by_name(tmp_path: Path) -> None:
    for epoch in (1, 2):
        write(tmp_path / f"epoch-{epoch}", "generator.pt", "discriminator.pt", start=10.0 * epoch)
    assert "`discriminator`, `generator`: choose one with `component=`" in str(refused(tmp_path))
    found = discover(tmp_path, component="generator")
    assert found.names == ("epoch-1/generator.pt", "epoch-2/generator.pt")
    assert found.doubt is None
    assert [each.step for each in found.checkpoints] == [1, 2]


def test_the_only_model_in_a_checkpoints_folder_needs_no_name(tmp_path: Path) -> None:
    write(tmp_path, "checkpoint-5/unet", "checkpoint-10/unet")
    found = discover(tmp_path)
    assert found.names == ("checkpoint-5/unet", "checkpoint-10/unet")
    assert found.doubt is None


def test_llamas_own_file_is_read_and_its_parts_are_explained(tmp_path: Path) -> None:
    for name in ("llama-a", "llama-b"):
        write(tmp_path / name, "consolidated.00.pth", start=float(ord(name[-1])))
    assert discover(tmp_path).names == ("llama-a", "llama-b")
    write(tmp_path / "llama-c", "consolidated.00.pth", "consolidated.01.pth")
    assert "`llama-c` (one model in 2 model-parallel parts. Put them together" in str(discover(tmp_path).warnings)


def test_a_checkpoint_given_as_the_folder_is_told_apart_from_a_folder_of_them(tmp_path: Path) -> None:
    sweep(tmp_path)
    assert "It seems to be one checkpoint: give the folder above it." in str(refused(tmp_path / "run-0/checkpoint-40"))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_run_of_folders_in_dcp_format_is_looked_into(tmp_path: Path) -> None:
    """As torchtitan leaves it below its dump folder."""
    for step in (5, 10):
        path = tmp_path / "checkpoint" / f"step-{step}"
        dcp.save({"w": torch.full((4,), float(step))}, checkpoint_id=path, no_dist=True)
    assert discover(tmp_path).names == ("checkpoint/step-5", "checkpoint/step-10")
    assert value(combine_checkpoints(tmp_path, output=tmp_path / "out")) == 7.5


def test_a_run_of_deepspeeds_own_folders_is_looked_into(tmp_path: Path) -> None:
    for run in (1, 2):
        for step in (5, 10):
            folder = tmp_path / f"run-{run}" / f"global_step{step}"
            folder.mkdir(parents=True)
            state = {"module": {"w": torch.full((4,), float(10 * run + step))}}
            torch.save(state, folder / "mp_rank_00_model_states.pt")
        (tmp_path / f"run-{run}" / "latest").write_text("global_step10")
    assert discover(tmp_path).names == tuple(f"run-{run}/global_step{step}" for run in (1, 2) for step in (5, 10))
