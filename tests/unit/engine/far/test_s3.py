"""Checkpoints and data in a real S3 server, and a result that goes back there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

from ladle_engine import EngineError, average, combine_checkpoints, convert_checkpoints, inspect, rebuild
from ladle_engine.far_urls import parse_url
from ladle_engine.progress import ignore
from ladle_engine.storage.far.door import FarSettings, opened_mirror
from tests.builders import make_checkpoints, make_val_set, trained_states
from tests.far_servers import S3

FEW = {"method": "twa", "method_options": {"steps": 3}}


@pytest.fixture
def run(s3: S3, tmp_path: Path) -> Path:
    """The same run here and at `s3://bucket/run`, with data at `s3://bucket/data`."""
    run = tmp_path / "run"
    make_checkpoints(run / "ckpts")
    (run / "data").mkdir()
    make_val_set(run / "data" / "val.npz")
    s3.put(run, "run")
    return run


def refused(code: str, **arguments: object) -> str:
    with pytest.raises(EngineError) as caught:
        combine_checkpoints(**arguments)  # type: ignore[arg-type]
    assert caught.value.code == code, caught.value
    assert "\n" not in caught.value.message
    return caught.value.message


def test_average_goes_from_s3_to_s3_and_equals_the_one_of_local_files(s3: S3, run: Path, tmp_path: Path) -> None:
    near = average(run / "ckpts", run / "data" / "val.npz", output=tmp_path / "near", **FEW)
    stages = []
    far = average(
        "s3://bucket/run/ckpts",
        "s3://bucket/run/data/val.npz",
        output="s3://bucket/results/seven",
        progress=lambda event: stages.append(getattr(event, "stage", "")),
        **FEW,
    )
    assert far.folder == "s3://bucket/results/seven"
    assert (far.gain, far.method) == (near.gain, near.method)
    assert stages[0] == "fetch"
    assert "upload" in stages
    written = {path.name for path in (tmp_path / "near").iterdir()}
    assert {key.removeprefix("results/seven/") for key in s3.found("results")} == written
    ours, theirs = load_file(tmp_path / "near" / "model.safetensors"), load(s3.get("results/seven/model.safetensors"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    report = json.loads(s3.get("results/seven/report.json"))
    assert report["settings"]["ckpt_dir"] == "s3://bucket/run/ckpts"
    assert "s3://bucket/run/ckpts/epoch-1.safetensors" in report["inputs"]["far"]
    assert [row["stage"] for row in report["stages"]][:3] == ["discover", "fetch", "check"]
    assert (
        report["checkpoints"][0]["files"]
        == json.loads((tmp_path / "near/report.json").read_text())["checkpoints"][0]["files"]
    )
    assert str(tmp_path) not in s3.get("results/seven/report.json").decode()
    assert str(tmp_path) not in s3.get("results/seven/README.md").decode()


def test_what_was_fetched_once_is_not_fetched_again(s3: S3, run: Path, tmp_path: Path) -> None:
    combine_checkpoints("s3://bucket/run/ckpts", output=tmp_path / "one")
    before = len(s3.of(".safetensors"))
    combine_checkpoints("s3://bucket/run/ckpts", output=tmp_path / "two")
    assert before > 0
    assert len(s3.of(".safetensors")) == before


def test_a_sibling_whose_name_begins_alike_is_none_of_the_folder(s3: S3, run: Path, tmp_path: Path) -> None:
    s3.put_bytes("run/ckpts-old/epoch-9.safetensors", b"broken")
    combine_checkpoints("s3://bucket/run/ckpts/", output=tmp_path / "out")
    assert not [each for each in s3.requests if "epoch-9" in each]


def test_only_the_chosen_checkpoints_are_fetched(s3: S3, run: Path, tmp_path: Path) -> None:
    s3.put_bytes("run/ckpts/epoch-9.safetensors", (run / "ckpts/epoch-1.safetensors").read_bytes())
    s3.put_bytes("run/ckpts/optimizer.pt", bytes(3_000_000))
    combine_checkpoints("s3://bucket/run/ckpts", output=tmp_path / "out", last=2)
    assert not s3.of("optimizer.pt")


def test_a_result_is_built_again_from_far_checkpoints(s3: S3, run: Path, tmp_path: Path) -> None:
    average(run / "ckpts", run / "data" / "val.npz", output=tmp_path / "near", **FEW)
    s3.put(tmp_path / "near", "results/near")
    rebuild("s3://bucket/results/near", "s3://bucket/run/ckpts", output=tmp_path / "again")
    ours = load_file(tmp_path / "near" / "model.safetensors")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_of_a_pickle_the_optimiser_states_are_left_where_they_are(s3: S3, tmp_path: Path) -> None:
    folder = tmp_path / "pickles"
    folder.mkdir()
    for number, state in enumerate(trained_states(3, False, 0, 4), start=1):
        padding = {f"m{index}": torch.full((1_500_000,), float(index)) for index in range(2)}
        torch.save({"optimizer": padding, "model": state, "epoch": number}, folder / f"epoch-{number}.pt")
    s3.put(folder, "pickles")
    combine_checkpoints(folder, output=tmp_path / "near")
    s3.sent = 0
    combine_checkpoints("s3://bucket/pickles", output=tmp_path / "far")
    assert s3.sent < 0.6 * sum(path.stat().st_size for path in folder.iterdir())
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("near", "far"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_file_of_which_another_job_fetches_more_meanwhile_is_still_the_same(s3: S3, tmp_path: Path) -> None:
    folder = tmp_path / "pickles"
    folder.mkdir()
    for number, state in enumerate(trained_states(2, False, 0, 4), start=1):
        torch.save({"optimizer": torch.zeros(1_500_000), "model": state}, folder / f"epoch-{number}.pt")
    s3.put(folder, "pickles")
    url, fetched = parse_url("s3://bucket/pickles"), []

    def fetch_all(event: object) -> None:
        if getattr(event, "stage", "") == "verify" and not fetched:
            with opened_mirror(FarSettings.from_environment(), [url], ignore) as other:
                other.add(url, "ckpt_dir")
                fetched.extend(other.files_below(other.cache.path_of(url)))
                other.fetch(dict.fromkeys(fetched))

    s3.sent = 0
    combine_checkpoints("s3://bucket/pickles", output=tmp_path / "out", progress=fetch_all)
    assert s3.sent > sum(path.stat().st_size for path in folder.iterdir())
    assert len(fetched) == 2


def test_several_far_folders_and_globs_have_names_below_their_common_folder(s3: S3, run: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        s3.put_bytes(f"sweep/run-{number}/model.safetensors", (run / f"ckpts/epoch-{number}.safetensors").read_bytes())
    combine_checkpoints("s3://bucket/sweep/run-*", output=tmp_path / "globbed")
    combine_checkpoints(["s3://bucket/sweep/run-1", "s3://bucket/sweep/run-2"], output=tmp_path / "listed")  # type: ignore[arg-type]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("globbed", "listed"))
    mean = {
        name: (load_file(run / "ckpts/epoch-1.safetensors")[name] + load_file(run / "ckpts/epoch-2.safetensors")[name])
        / 2
        for name in one
    }
    assert all(torch.allclose(one[name], mean[name]) and torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("fault", ["503", "drop", "short"])
def test_a_single_fault_is_recovered_from(s3: S3, run: Path, tmp_path: Path, fault: str) -> None:
    seen: set[str] = set()

    def once(method: str, path: str) -> str | None:
        if path in seen:
            return None
        seen.add(path)
        return fault

    s3.fault = once
    combine_checkpoints("s3://bucket/run/ckpts", output=tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_a_store_that_stays_down_is_one_line(s3: S3, run: Path, tmp_path: Path) -> None:
    s3.fault = lambda method, path: "503" if ".safetensors" in path else None
    message = refused("unreadable-input", ckpt_dir="s3://bucket/run/ckpts", output=tmp_path / "out")
    assert "s3://bucket/run/ckpts/epoch-" in message
    assert "must answer, but does not" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("InvalidAccessKeyId", "does not know them"),
        ("SignatureDoesNotMatch", "does not know"),
        ("AccessDenied", "do not allow it"),
    ],
)
def test_wrong_credentials_are_one_line_and_tried_once(
    s3: S3, run: Path, tmp_path: Path, code: str, words: str
) -> None:
    s3.fault = lambda method, path: code
    assert words in refused("unreadable-input", ckpt_dir="s3://bucket/run/ckpts", output=tmp_path / "out")
    assert len(s3.requests) < 4


def test_no_credentials_at_all_are_one_line(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "needs credentials" in refused("unreadable-input", ckpt_dir="s3://bucket/run", output=tmp_path / "out")


def test_what_is_not_there_is_one_line(s3: S3, tmp_path: Path) -> None:
    assert "nothing at this address" in refused("unreadable-input", ckpt_dir="s3://bucket/no", output=tmp_path / "out")
    assert "no bucket `none`" in refused("unreadable-input", ckpt_dir="s3://none/run", output=tmp_path / "out")


def test_an_object_that_is_replaced_meanwhile_ends_the_job(s3: S3, run: Path, tmp_path: Path) -> None:
    def replace_it(event: object) -> None:
        if getattr(event, "stage", "") == "verify":
            s3.put_bytes("run/ckpts/epoch-1.safetensors", (run / "ckpts/epoch-2.safetensors").read_bytes())

    arguments = {"ckpt_dir": "s3://bucket/run/ckpts", "output": "s3://bucket/results/x", "progress": replace_it}
    message = refused("inputs-changed", **arguments)
    assert "`s3://bucket/run/ckpts/epoch-1.safetensors` was replaced" in message
    assert not s3.found("results")


def test_converted_checkpoints_are_where_they_were_uploaded_to(s3: S3, run: Path) -> None:
    several = convert_checkpoints("s3://bucket/run/ckpts", "s3://bucket/results/several")
    assert several == tuple(f"s3://bucket/results/several/epoch-{number}" for number in (1, 2, 3, 4))
    assert all(f"{each}/model.safetensors".removeprefix("s3://bucket/") in s3.found("results") for each in several)
    one = convert_checkpoints(run / "ckpts" / "epoch-1.safetensors", "s3://bucket/results/one")
    assert one == ("s3://bucket/results/one",)


def test_inspect_reads_headers_and_tells_of_what_is_not_there(s3: S3, run: Path) -> None:
    s3.put_bytes("run/ckpts/optimizer.pt", bytes(3_000_000))
    found = inspect("s3://bucket/run/ckpts")
    assert found.usable
    assert found.folder == "s3://bucket/run/ckpts"
    assert not s3.of("optimizer.pt")
    missing = inspect("s3://bucket/none")
    assert (missing.usable, missing.folder, missing.problems[0].code) == (
        False,
        "s3://bucket/none",
        "unreadable-input",
    )


def test_half_an_upload_is_no_result_and_goes_at_the_next_try(s3: S3, run: Path, tmp_path: Path) -> None:
    s3.fault = lambda method, path: "503" if method == "PUT" and "config.json" in path else None
    message = refused("results-unwritable", ckpt_dir="s3://bucket/run/ckpts", output="s3://bucket/results/x")
    assert "s3://bucket/results/x" in message
    s3.put_bytes("results/x/left.bin", b"half")
    assert [key for key in s3.found("results") if key.startswith("results/x/.ladle-upload-")]
    s3.fault = lambda method, path: None
    combine_checkpoints("s3://bucket/run/ckpts", output="s3://bucket/results/x")
    assert s3.found("results") == ["results/x/config.json", "results/x/model.safetensors"]
    assert "exists" in refused("output-exists", ckpt_dir="s3://bucket/run/ckpts", output="s3://bucket/results/x")


def test_what_comes_back_otherwise_than_it_was_written_is_no_result(
    s3: S3, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ladle_engine.storage.far import upload

    def put_another(source: Path, url: object, access: object, wait: object) -> None:
        upload.put_bytes(source.read_bytes()[::-1], url, access, wait)  # type: ignore[arg-type]

    monkeypatch.setattr(upload, "put_file", put_another)
    refused("results-unwritable", ckpt_dir="s3://bucket/run/ckpts", output="s3://bucket/results/x")
    assert [key for key in s3.found("results") if key.startswith("results/x/.ladle-upload-")]
