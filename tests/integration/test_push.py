"""`ladle push`: a real result, through huggingface_hub, to a stand-in for the Hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from ladle._reports import NotAResult
from ladle.hub.address import parse_address
from ladle.hub.benchmark import parse_benchmark
from ladle.hub.push import Pushed, PushError, Wishes, push
from ladle.hub.result_files import open_result
from ladle_engine import average
from tests.hub_stub import TOKEN, Hub, Repo, hub_stub
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>'")
"""huggingface_hub gives httpx2 its files in an old way."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_checkpoints(folder / "checkpoints", plain_net)
    average(folder / "checkpoints", "data", output=folder / "mean", task=ToyTask(plain_net), method="uniform")
    return folder / "mean"


@pytest.fixture
def result(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "mean"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_stub() as stub:
        # What HF_ENDPOINT, HF_HUB_OFFLINE and HF_HUB_DISABLE_XET set as the package is imported.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", stub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield stub


def pushed(result: Path, address: str = "hf://me/mean", **wishes: Any) -> Pushed:
    return push(open_result(result), parse_address(address), Wishes(**wishes), print)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_result_becomes_a_repository_in_one_commit_large_files_by_lfs_and_small_ones_in_it(
    hub: Hub, result: Path
) -> None:
    done = pushed(result, private=True)
    repo = hub.repos["me/mean"]
    assert (done.url, done.changed, repo.private) == (f"{hub.url}/me/mean", True, True)
    assert hub.content("me/mean") == files_of(result)
    (commit,) = repo.commits
    assert commit["summary"] == "Average of 5 checkpoints (uniform)"
    assert {"header", "file", "lfsFile"} == set(commit["keys"])
    assert "lfsFile" in commit["keys"], "the weights"
    assert hub.called("PUT /lfs/*/2"), "the picture has more bytes than one part"
    assert [path for path in hub.called("PUT /lfs/*") if path.count("/") == 2], "the weights fit one"
    card = ModelCard(hub.content("me/mean")["README.md"].decode())
    assert card.data.eval_results


def test_the_same_again_uploads_nothing_and_commits_nothing(hub: Hub, result: Path) -> None:
    first = pushed(result)
    hub.calls.clear()
    again = pushed(result)
    assert (again.changed, again.commit) == (False, first.commit)
    assert not hub.called("PUT *")
    assert len(hub.repos["me/mean"].commits) == 1


def test_what_was_uploaded_before_a_fault_is_not_uploaded_again(hub: Hub, result: Path) -> None:
    hub.faults = {"POST */commit/*": 500}
    with pytest.raises(PushError, match=r"The Hub has a fault \(status 500\).*not uploaded again"):
        pushed(result)
    assert hub.content("me/mean") == {}, "nothing is to be seen of half a push"
    hub.faults, uploads = {}, len(hub.called("PUT *"))
    assert pushed(result).changed
    assert len(hub.called("PUT *")) == uploads
    assert hub.content("me/mean") == files_of(result)


def test_a_folder_a_branch_and_a_message_are_taken(hub: Hub, result: Path) -> None:
    done = pushed(result, "hf://me/mean/runs/7@v2", message="Seventh\nrun")
    assert done.url == f"{hub.url}/me/mean/tree/v2/runs/7"
    assert hub.content("me/mean") == {}
    assert hub.content("me/mean", "v2") == {f"runs/7/{name}": text for name, text in files_of(result).items()}
    assert hub.repos["me/mean"].commits[0]["summary"] == r"Seventh\nrun"


def test_weights_of_an_earlier_model_do_not_stay_beside_the_new_one(hub: Hub, result: Path) -> None:
    old = {"model-00001-of-00002.safetensors": b"1", "model.safetensors.index.json": b"{}", "notes.md": b"mine"}
    hub.repos["me/mean"] = Repo(branches={"main": {**old, "sub/model-00001-of-00002.safetensors": b"2"}})
    done = pushed(result)
    assert set(done.deleted) == {"model-00001-of-00002.safetensors", "model.safetensors.index.json"}
    left = set(hub.content("me/mean")) - set(files_of(result))
    assert left == {"notes.md", "sub/model-00001-of-00002.safetensors"}
    assert len(hub.repos["me/mean"].commits) == 1


def test_a_pull_request_leaves_the_branch_as_it_is(hub: Hub, result: Path) -> None:
    hub.repos["them/theirs"] = Repo(branches={"main": {"README.md": b"theirs"}})
    done = pushed(result, "hf://them/theirs", create_pr=True)
    assert done.url == f"{hub.url}/them/theirs/discussions/1"
    assert hub.content("them/theirs") == {"README.md": b"theirs"}
    assert hub.repos["them/theirs"].pulls == [files_of(result)]
    with pytest.raises(PushError, match=r"`them/none` must be there for a pull request"):
        pushed(result, "hf://them/none", create_pr=True)


def test_a_private_push_never_ends_in_a_public_repository(hub: Hub, result: Path) -> None:
    hub.repos["me/mean"] = Repo(private=False)
    with pytest.raises(PushError, match="`me/mean` must be private, but is public"):
        pushed(result, private=True)
    assert not hub.called("P* */preupload/*")


def test_a_gitignore_that_would_leave_weights_out_is_refused(hub: Hub, result: Path) -> None:
    hub.repos["me/mean"] = Repo(branches={"main": {".gitignore": b"*.safetensors"}})
    with pytest.raises(PushError, match=r"`\.gitignore` leaves out `model\.safetensors`"):
        pushed(result)
    assert not hub.repos["me/mean"].commits


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ({"GET *": 401}, "refuses the token"),
        ({"POST */preupload/*": 403}, "may not write to `me/mean`.*--create-pr"),
        ({"POST */commit/*": 412}, "Somebody else has changed"),
        ({"POST */commit/*": 400}, r"refuses the result \(status 400\).*as the test wants"),
    ],
)
def test_a_refusal_is_told_in_words_that_help(
    hub: Hub, result: Path, faults: dict[str, int], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults = faults
    with pytest.raises(PushError, match=words) as caught:
        pushed(result)
    assert TOKEN not in str(caught.value) + capsys.readouterr().out


@pytest.mark.parametrize("token", ["hf_with\x07bell", "hf_é"])
def test_a_token_that_is_no_header_is_not_repeated(
    hub: Hub, result: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PushError) as caught:
        pushed(result)
    assert token not in str(caught.value)
    assert ascii(token)[1:-1] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_without_a_token_or_a_hub_it_is_said_what_to_do(
    hub: Hub, result: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(PushError, match="hf auth login"):
        pushed(result)
    assert not hub.calls


def test_a_result_that_is_not_what_its_report_says_is_refused(result: Path) -> None:
    with (result / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x07")
    with pytest.raises(NotAResult, match=r"`model\.safetensors` is not the one that Ladle wrote"):
        open_result(result)
    (result / "model.safetensors").unlink()
    with pytest.raises(NotAResult, match=r"`model\.safetensors` is missing"):
        open_result(result)


def test_what_ladle_did_not_write_stays_where_it_is(result: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (result / ".env").write_text("TOKEN=1")
    (result / "notes.txt").write_text("mine")
    (result / "link.txt").symlink_to(tmp_path / "secret")
    opened = open_result(result)
    assert opened.others == (".env", "notes.txt")
    assert not {".env", "notes.txt", "link.txt"} & set(opened.files)
    assert {"README.md", "report.json", "coefficients.json", "model.safetensors"} <= set(opened.files)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "a\\b", ""])
def test_a_report_that_names_files_elsewhere_is_no_result(result: Path, name: str) -> None:
    report = json.loads((result / "report.json").read_text())
    report["inputs"]["side_files"] = {name: "0" * 64}
    (result / "report.json").write_text(json.dumps(report))
    with pytest.raises(NotAResult, match="not one that Ladle wrote"):
        open_result(result)


def test_a_score_goes_to_the_leaderboard_of_a_benchmark_that_is_named(hub: Hub, result: Path) -> None:
    benchmark = parse_benchmark("Idavidrein/gpqa:gpqa_diamond")
    pushed(result, benchmark=benchmark)
    (entry,) = parse_eval_result_entries(yaml.safe_load(hub.content("me/mean")[".eval_results/gpqa-gpqa_diamond.yaml"]))
    report = json.loads((result / "report.json").read_text())
    winner = next(row for row in report["candidates"] if row["method"] == report["winner"])
    assert (entry.dataset_id, entry.task_id, entry.value) == (
        "Idavidrein/gpqa",
        "gpqa_diamond",
        winner["select"]["loss"],
    )
    assert "examples that trained nothing" in (entry.notes or "")


def test_the_command_says_what_it_does_and_prints_the_address(hub: Hub, result: Path) -> None:
    (result / "notes.txt").write_text("mine")

    def ladle(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        program = [sys.executable, "-c", "from ladle.cli import main; main()", "push", *arguments]
        return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300, check=False)

    done = ladle(str(result), "hf://me/mean")
    assert (done.returncode, done.stdout) == (0, f"{hub.url}/me/mean\n"), done.stderr
    assert "left out, because Ladle did not write it: notes.txt" in done.stderr
    assert TOKEN not in done.stderr
    assert "notes.txt" not in hub.content("me/mean")
    refused = ladle(str(result.parent), "hf://me/mean")
    assert refused.returncode == 2
    assert "it has no report.json" in " ".join(refused.stderr.replace("│", "").split())
