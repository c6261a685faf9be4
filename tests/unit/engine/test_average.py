"""`average` as a person calls it: real checkpoints of a small CNN on digits, in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ladle_engine import EngineError, average, candidate_state, rebuild
from ladle_engine import progress as events
from ladle_engine.output.digests import sha256_of
from ladle_engine.resume_state import ResumeState
from tests.builders import WITHOUT_BASE, make_checkpoints, make_inputs, make_val_set, quick_options
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints

ALL = {"methods": WITHOUT_BASE, "options": quick_options(4)}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "batch-norm"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """One whole run of every method: its folder and outcome."""
    root = tmp_path_factory.mktemp("made")
    make_checkpoints(root / "checkpoints", batch_norm=request.param)
    # Enough examples for BatchNorm's statistics to be recomputed.
    make_val_set(root / "val.npz", count=1060 if request.param else 300)
    seen: list[Any] = []
    outcome = average(
        root / "checkpoints", root / "val.npz", output=root / "out", method_options=ALL, progress=seen.append
    )
    return root, (outcome, seen)


def test_every_method_is_a_candidate_and_the_winner_is_no_worse_than_the_best_checkpoint(
    made: tuple[Path, Any],
) -> None:
    _, (outcome, _) = made
    scores = {score.method: score for score in outcome.candidates}
    assert list(scores) == WITHOUT_BASE
    assert outcome.gain >= 0
    won = scores[outcome.method].select
    for other in (score.select for score in outcome.candidates):
        assert not (other["accuracy"] >= won["accuracy"] and other["loss"] < won["loss"]), "or it would have won"
    assert scores["best"].gain == 0
    for score in outcome.candidates:
        assert score.gain == pytest.approx(score.select["accuracy"] - scores["best"].select["accuracy"], abs=1e-9)
        assert score.gain_low <= score.gain <= score.gain_high


def test_the_folder_holds_a_model_that_loads_its_report_and_a_card(made: tuple[Path, Any]) -> None:
    root, (outcome, _) = made
    assert outcome.folder == root / "out"
    assert set(outcome.files) == {path.name for path in (root / "out").iterdir()}
    assert {"model.safetensors", "coefficients.json", "report.json", "README.md", "config.json"} <= set(outcome.files)
    model = load_file(root / "out" / "model.safetensors")
    original = load_file(root / "checkpoints" / "epoch-4.safetensors")
    assert {name: (t.shape, t.dtype) for name, t in model.items()} == {
        name: (t.shape, t.dtype) for name, t in original.items()
    }
    with safe_open(root / "out" / "model.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"
        assert file.metadata()["ladle_method"] == outcome.method
    assert (root / "out" / "config.json").read_bytes() == (root / "checkpoints" / "config.json").read_bytes()
    assert outcome.method in (root / "out" / "README.md").read_text()


def test_the_report_is_strict_json_with_all_that_decided_the_result(made: tuple[Path, Any]) -> None:
    root, (outcome, _) = made

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    report = json.loads((root / "out" / "report.json").read_text(), parse_constant=refuse)
    assert report["winner"] == outcome.method
    assert [row["method"] for row in report["candidates"]] == WITHOUT_BASE
    trained = {name for name, options in quick_options(4).items() if "steps" in options}
    curves = {row["method"]: len(row["curve"]) for row in report["candidates"]}
    assert curves.pop("search") > 0, "a generation has a loss"
    assert curves == {name: 12 if name in trained else 0 for name in WITHOUT_BASE if name != "search"}
    assert len(report["checkpoints"]) == 4
    fit, select = (report["splits"][name] for name in ("fit", "select"))
    assert [row["fit"]["examples"] for row in report["checkpoints"]] == [fit] * 4, "greedy soup sorts by all of them"
    best = next(row for row in report["checkpoints"] if row["name"] == outcome.best_checkpoint)
    assert best["select"] == {"examples": select, "means": report["candidates"][0]["select"]}
    assert all(len(next(iter(row["files"].values()))) == 64 for row in report["checkpoints"]), "SHA-256 of each input"
    assert report["versions"]["torch"] == torch.__version__
    assert report["settings"]["seed"] == 0
    assert {"model.safetensors", "coefficients.json", "candidates.png"} <= set(report["files"])
    for name, digest in report["files"].items():
        assert sha256_of(root / "out" / name) == digest
    for row in report["candidates"]:
        for alpha_K in row["coefficients"]:
            assert sum(alpha_K) == pytest.approx(1, abs=1e-12)


def test_every_candidate_rebuilds_bit_for_bit_and_the_winners_file_is_the_one_written(
    made: tuple[Path, Any], tmp_path: Path
) -> None:
    root, (outcome, _) = made
    recipe = root / "out" / "coefficients.json"
    written = load_file(root / "out" / "model.safetensors")
    rebuild(recipe, root / "checkpoints", output=tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    for name, tensor in written.items():
        assert torch.equal(tensor, again[name]), name
    for method in WITHOUT_BASE:
        state = candidate_state(recipe, root / "checkpoints", method)
        rebuild(recipe, root / "checkpoints", output=tmp_path / method, candidate=method)
        rebuilt = load_file(tmp_path / method / "model.safetensors")
        assert all(torch.equal(tensor, rebuilt[name]) for name, tensor in state.items())
        if method == outcome.method:
            assert all(torch.equal(tensor, written[name]) for name, tensor in state.items())


def test_a_rebuilt_folder_has_the_side_files_too(made: tuple[Path, Any], tmp_path: Path) -> None:
    root, _ = made
    rebuild(root / "out", root / "checkpoints", output=tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (root / "out" / "config.json").read_bytes()


def test_the_models_score_is_the_one_that_the_file_has(made: tuple[Path, Any]) -> None:
    """Loads the written model on its own and measures it on the select split."""
    from ladle_small_cnn import SmallCnn

    from ladle_engine.tasks.examples import split

    root, (outcome, _) = made
    config = json.loads((root / "out" / "config.json").read_text())
    config.pop("ladle_task")
    model = SmallCnn(**config)
    model.load_state_dict(load_file(root / "out" / "model.safetensors"))
    with np.load(root / "val.npz") as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    _, select = split(len(labels), 0.5, 0)
    with torch.no_grad():
        right = model.eval()(images[select]).argmax(dim=1) == labels[select]
    winner = next(score for score in outcome.candidates if score.method == outcome.method)
    assert float(right.float().mean()) == pytest.approx(winner.select["accuracy"], abs=1e-6)


def test_progress_tells_what_was_found_each_stage_each_candidate(made: tuple[Path, Any]) -> None:
    _, (_, seen) = made
    found = [event for event in seen if isinstance(event, events.CheckpointsFound)]
    assert [(len(event.names), event.task, event.dtype) for event in found] == [(4, "small-cnn", "float32")]
    assert [event.score.method for event in seen if isinstance(event, events.CandidateScored)] == WITHOUT_BASE
    stages = [event.stage for event in seen if isinstance(event, events.StageStarted)]
    assert stages[0] == "discover"
    assert stages[-2:] == ["write", "verify"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("data"))


def run(data: Path, output: Path, **options: Any) -> Any:
    return average(data / "checkpoints", data / "val.npz", output=output, **options)


def refused(code: str, data: Path, tmp_path: Path, **options: Any) -> str:
    with pytest.raises(EngineError) as caught:
        run(data, tmp_path / "out", **options)
    assert caught.value.code == code, caught.value
    assert not list(tmp_path.glob("*out*")), "nothing is left behind"
    return str(caught.value)


def test_folder_and_validation_set_the_wrong_way_round_are_told(data: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        average(data / "val.npz", data / "checkpoints", output=tmp_path / "out")
    assert caught.value.code == "no-checkpoints"
    assert f"`{data / 'val.npz'}` is none" in str(caught.value)
    assert f"`{data / 'checkpoints'}`, given as the validation set, holds some: are the two swapped?" in str(
        caught.value
    )


def test_one_method_is_judged_against_the_best_checkpoint_only(data: Path, tmp_path: Path) -> None:
    outcome = run(data, tmp_path / "out", method="uniform")
    assert [score.method for score in outcome.candidates] == ["best", "uniform"]


def test_the_second_best_is_run_when_named_and_no_average_stands_beside_it(data: Path, tmp_path: Path) -> None:
    outcome = run(data, tmp_path / "out", method="second-best")
    best, second = outcome.candidates
    assert outcome.method == "best"
    assert best.select["accuracy"] >= second.select["accuracy"]
    assert second.label == "second-best (epoch-3.safetensors)" != f"second-best ({outcome.best_checkpoint})"


def test_the_same_arguments_give_the_same_bytes(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(data, tmp_path / name, method="twa-layerwise", method_options={"steps": 10})
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    run(data, tmp_path / "three", method="twa-layerwise", method_options={"steps": 10}, seed=1)
    alpha = [json.loads((tmp_path / n / "coefficients.json").read_text())["candidates"] for n in ("one", "three")]
    assert alpha[0]["twa-layerwise"] != alpha[1]["twa-layerwise"]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_of_the_caller_changes_nothing(data: Path, tmp_path: Path, mode: Any) -> None:
    run(data, tmp_path / "plain", method="twa")
    with mode():
        run(data, tmp_path / "within", method="twa")
    written = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "within")]
    assert written[0] == written[1]


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(data: Path, tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def stop_after(count: int) -> Any:
        def listen(event: Any) -> None:
            nonlocal count
            if isinstance(event, events.CandidateScored):
                count -= 1
                if count == 0:
                    raise Interrupted

        return listen

    run(data, tmp_path / "whole", method_options=ALL)
    until_given = WITHOUT_BASE.index("given") + 1
    for done in (2, until_given):
        with pytest.raises(Interrupted):
            run(data, tmp_path / "out", method_options=ALL, state_dir=tmp_path / "state", progress=stop_after(done))
        assert not (tmp_path / "out").exists()
    again: list[Any] = []
    run(data, tmp_path / "out", method_options=ALL, state_dir=tmp_path / "state", progress=again.append)
    steps = [event.method for event in again if isinstance(event, events.StepDone) and event.stage == "train"]
    # The one after `given` had not been chosen yet.
    assert set(steps) <= set(WITHOUT_BASE[until_given:]), "the others' coefficients were saved"
    for name in ("model.safetensors", "coefficients.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_resumed_method_is_bit_identical_though_the_one_before_it_cut_layers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How sums are cut must not depend on which methods still run."""

    class Interrupted(Exception):
        pass

    options = {
        "methods": ["twa", "twa-gram-schmidt"],
        "options": {"twa": {"groups": "tensors", "steps": 4}, "twa-gram-schmidt": {"steps": 16}},
    }
    run(data, tmp_path / "whole", method_options=options)
    save = ResumeState.save

    def dying(state: ResumeState, key: str, value: Any) -> None:
        save(state, key, value)
        if key == "train-twa-gram-schmidt" and len(value["losses"]) >= 7:
            raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(ResumeState, "save", dying)
        patched.setattr(ResumeState, "is_due", lambda state: True)
        with pytest.raises(Interrupted):
            run(data, tmp_path / "out", method_options=options, state_dir=tmp_path / "state")
    run(data, tmp_path / "out", method_options=options, state_dir=tmp_path / "state")
    whole, resumed = ((tmp_path / name / "coefficients.json").read_bytes() for name in ("whole", "out"))
    assert resumed == whole


def test_a_state_of_other_files_or_settings_is_not_resumed(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "one", method="twa", method_options={"steps": 10}, state_dir=tmp_path / "state")
    seen: list[Any] = []
    run(
        data, tmp_path / "two", method="twa", method_options={"steps": 11}, state_dir=tmp_path / "state",
        progress=seen.append,
    )  # fmt: skip
    assert [event.step for event in seen if isinstance(event, events.StepDone) and event.stage == "train"][-1] == 11


def test_the_output_dtype_is_what_candidates_are_judged_in(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "out", method="uniform", dtype="bfloat16")
    model = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in model.values()} == {torch.bfloat16}


def test_a_train_set_trains_the_coefficients_and_the_whole_val_set_chooses(data: Path, tmp_path: Path) -> None:
    train = make_val_set(tmp_path / "train.npz", count=256, start=0)
    plain = run(data, tmp_path / "one", method="twa", method_options={"steps": 10})
    with_train = run(data, tmp_path / "two", method="twa", method_options={"steps": 10}, train_set=train)
    assert plain.candidates[1].select != with_train.candidates[1].select


def test_a_train_set_that_cannot_train_is_refused_and_so_is_its_use_without_one(data: Path, tmp_path: Path) -> None:
    one = make_val_set(tmp_path / "train.npz", count=1, start=0)
    message = refused("too-little-data", data, tmp_path, train_set=one)
    assert "`train_set=` must hold at least 2 examples, but" in message
    message = refused("invalid-data", data, tmp_path, train_set_use="batchnorm")
    assert message == "`train_set=` must be given with `train_set_use: batchnorm`, but is absent."


def test_recomputed_statistics_are_those_of_the_data(tmp_path: Path) -> None:
    """The first BatchNorm sees the first convolution's output: its mean and variance can be computed directly."""
    checkpoints = make_checkpoints(tmp_path / "checkpoints", batch_norm=True)
    make_val_set(tmp_path / "val.npz", count=100)
    train = make_val_set(tmp_path / "train.npz", count=600, start=0)
    average(
        checkpoints, tmp_path / "val.npz", output=tmp_path / "out", method="uniform", train_set=train,
        train_set_use="batchnorm", task_options={"batch_size": 50},
    )  # fmt: skip
    state = candidate_state(tmp_path / "out" / "coefficients.json", checkpoints, "uniform")
    with np.load(train) as arrays:
        images = torch.from_numpy(arrays["images"])
    features = torch.conv2d(images, state["conv1.weight"], state["conv1.bias"], padding=1)
    assert torch.allclose(state["norm1.running_mean"], features.mean(dim=(0, 2, 3)), atol=1e-5)
    # Variance within batches, as BatchNorm sees it: a little below that over all examples.
    assert torch.allclose(state["norm1.running_var"], features.var(dim=(0, 2, 3)), rtol=0.02)


def test_a_method_whose_loss_becomes_nan_is_left_out_by_auto_and_an_error_alone(data: Path, tmp_path: Path) -> None:
    wild = {"steps": 5, "learning_rate": 1e30, "warmup_fraction": 0.0}
    message = refused("non-finite-loss", data, tmp_path, method="twa", method_options=wild)
    assert "method `twa` must be finite" in message
    assert "`learning_rate`" in message
    outcome = run(data, tmp_path / "out", method_options={"options": {"twa": wild, "twa-layerwise": {"steps": 5}}})
    assert "twa" not in [score.method for score in outcome.candidates]
    assert any("`twa` was left out" in warning for warning in outcome.warnings)


def test_a_checkpoint_whose_loss_is_not_finite_is_named(tmp_path: Path) -> None:
    folder = make_checkpoints(tmp_path / "checkpoints")
    state = load_file(folder / "epoch-2.safetensors")
    save_file({name: tensor * 1e30 for name, tensor in state.items()}, folder / "epoch-2.safetensors")
    make_val_set(tmp_path / "val.npz")
    with pytest.raises(EngineError, match=r"that of `epoch-2\.safetensors`") as caught:
        average(folder, tmp_path / "val.npz", output=tmp_path / "out")
    assert caught.value.code == "non-finite-loss"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"method": "twaa"}, "unknown-method", "twaa"),
        ({"method": "twa", "method_options": {"step": 3}}, "invalid-method-options", "`step`"),
        ({"method": "twa", "method_options": {"steps": 0}}, "invalid-method-options", "at least 1, but is 0"),
        ({"method": "twa", "method_options": {"steps": True}}, "invalid-method-options", "of type int"),
        ({"method": "last-k", "method_options": {"k": 9}}, "invalid-method-options", "9"),
        ({"task": "translation"}, "unknown-task", "`translation`"),
        ({"task_options": {"batch_size": 0}}, "invalid-task-options", "at least 1, but is 0"),
        ({"metric": "f1"}, "unknown-metric", "accuracy, loss"),
        ({"metric": "Acuracy"}, "unknown-metric", "Did you mean `accuracy`?"),
        ({"select_fraction": 0.999}, "too-little-data", "0.999 of 300"),
    ],
)
def test_wrong_options_are_refused_by_name_and_leave_nothing(
    data: Path, tmp_path: Path, options: dict[str, Any], code: str, words: str
) -> None:
    assert words in refused(code, data, tmp_path, **options)


def test_a_task_that_cannot_be_inferred_says_what_is_installed(tmp_path: Path) -> None:
    folder = make_checkpoints(tmp_path / "checkpoints")
    make_val_set(tmp_path / "val.npz")
    for text, words in ((None, "no `config.json`"), ('{"architectures": ["BertModel"]}', "['BertModel']")):
        (folder / "config.json").unlink(missing_ok=True)
        if text:
            (folder / "config.json").write_text(text)
        with pytest.raises(EngineError, match=r"Installed tasks: .*image-classification, .*small-cnn") as caught:
            average(folder, tmp_path / "val.npz", output=tmp_path / "out")
        assert words in str(caught.value)


def test_a_config_of_another_architecture_is_refused_with_the_tensor(tmp_path: Path) -> None:
    folder = make_checkpoints(tmp_path / "checkpoints")
    make_val_set(tmp_path / "val.npz")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"width": 5}))
    with pytest.raises(EngineError, match=r"`conv1\.weight`") as caught:
        average(folder, tmp_path / "val.npz", output=tmp_path / "out")
    assert caught.value.code == "model-mismatch"


def test_an_output_that_exists_is_refused_before_anything_is_read(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(EngineError, match="exists") as caught:
        average(tmp_path / "nowhere", data / "val.npz", output=tmp_path / "out")
    assert caught.value.code == "output-exists"


def test_the_result_can_be_sharded(data: Path, tmp_path: Path) -> None:
    outcome = run(data, tmp_path / "out", method="uniform", max_shard_bytes=4000)
    assert "model.safetensors.index.json" in outcome.files
    assert "model.safetensors" not in outcome.files
    again: dict[str, torch.Tensor] = {}
    for name in outcome.files:
        if name.endswith(".safetensors"):
            again |= load_file(tmp_path / "out" / name)
    whole = candidate_state(tmp_path / "out" / "coefficients.json", data / "checkpoints")
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    assert len(again) == len(whole)


def test_a_checkpoint_that_has_changed_since_is_refused_by_rebuild(tmp_path: Path) -> None:
    folder = make_checkpoints(tmp_path / "checkpoints")
    make_val_set(tmp_path / "val.npz")
    average(folder, tmp_path / "val.npz", output=tmp_path / "out", method="uniform")
    (folder / "epoch-2.safetensors").write_bytes((folder / "epoch-1.safetensors").read_bytes())
    with pytest.raises(EngineError, match=r"epoch-2\.safetensors` has changed") as caught:
        rebuild(tmp_path / "out", folder, output=tmp_path / "again")
    assert caught.value.code == "mismatched-checkpoints"
    assert not (tmp_path / "again").exists()


def test_files_that_the_job_left_out_do_not_disturb_a_rebuild(tmp_path: Path) -> None:
    folder = make_checkpoints(tmp_path / "checkpoints")
    make_val_set(tmp_path / "val.npz")
    save_file({"other": torch.zeros(2)}, folder / "zzz-99.safetensors")
    average(folder, tmp_path / "val.npz", output=tmp_path / "out", method="uniform", pattern="epoch-*")
    rebuild(tmp_path / "out" / "coefficients.json", folder, output=tmp_path / "again")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", ["report.json", "README.md", "absent.json"])
def test_another_file_than_the_coefficients_is_refused_by_name(made: tuple[Path, Any], name: str) -> None:
    root, _ = made
    with pytest.raises(EngineError, match=r"coefficients\.json"):
        candidate_state(root / "out" / name, root / "checkpoints")


def test_arguments_of_any_sequence_type_go_into_the_report(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "out", method="uniform", steps=range(2, 5))
    assert json.loads((tmp_path / "out" / "report.json").read_text())["settings"]["steps"] == [2, 3, 4]


def test_a_method_of_another_kind_or_a_near_miss_gets_a_hint(data: Path, tmp_path: Path) -> None:
    assert "`method_options=`" in refused("unknown-method", data, tmp_path, method={"name": "twa"})
    assert "Did you mean `twa`?" in refused("unknown-method", data, tmp_path, method="tva")
    infinite = {"prior": float("inf")}
    assert "finite" in refused("invalid-method-options", data, tmp_path, method="twa", method_options=infinite)


def test_a_data_path_of_which_only_the_task_knows_what_it_stands_for_is_no_error(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    average(
        tmp_path / "checkpoints", "the test split", output=tmp_path / "out", task=ToyTask(plain_net), method="uniform"
    )
    assert json.loads((tmp_path / "out" / "coefficients.json").read_text())["inputs"]["data"] == {"val_set": {}}


def test_a_tie_is_called_one_in_the_card(tmp_path: Path, data: Path) -> None:
    from ladle_engine.pipeline.model_card import model_card

    outcome = run(data, tmp_path / "out", method="uniform")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    report |= {"winner": "uniform", "gain": {"value": 0.0, "low": 0.0, "high": 0.0}}
    card = model_card(report)
    loss = {score.method: f"{score.select['loss']:.4f}" for score in outcome.candidates}
    assert "the same accuracy as the best checkpoint on the select split, with a lower loss" in card
    assert f"({loss['uniform']} instead of {loss['best']})" in card
    assert "| method | accuracy | loss | accuracy against best |" in card
