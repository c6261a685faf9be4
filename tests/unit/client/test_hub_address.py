"""Where on the Hub a result goes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ladle.cli.app import app
from ladle.hub.address import BadAddress, HubAddress, parse_address
from ladle.hub.benchmark import parse_benchmark
from ladle.hub.push import PushError, Wishes, push
from ladle.hub.result_files import Result


@pytest.mark.parametrize(
    ("text", "repo", "folder", "revision"),
    [
        ("hf://me/model", "me/model", "", None),
        ("hf://me/model/", "me/model", "", None),
        ("hf://my-org/model_1.5", "my-org/model_1.5", "", None),
        ("hf://me/model/runs/7", "me/model", "runs/7", None),
        ("hf://me/model@v2", "me/model", "", "v2"),
        ("hf://me/model/runs/7@v2", "me/model", "runs/7", "v2"),
        ("hf://me/model@v2/runs/7", "me/model", "runs/7", "v2"),
        ("hf://me/model/runs/7@feature/x", "me/model", "runs/7", "feature/x"),
        ("hf://me/model@feature%2Fx/runs", "me/model", "runs", "feature/x"),
        ("hf://me/model@refs/pr/3", "me/model", "", "refs/pr/3"),
        ("hf://me/model@refs/pr/3/runs", "me/model", "runs", "refs/pr/3"),
        ("HF://me/model", "me/model", "", None),
    ],
)
def test_an_address_has_a_repository_and_perhaps_a_folder_and_a_branch(
    text: str, repo: str, folder: str, revision: str | None
) -> None:
    assert parse_address(text) == HubAddress(repo=repo, folder=folder, revision=revision)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("me/model", "no `hf://`"),
        ("hf:/me/model", "no `hf://`"),
        ("s3://bucket/model", "`s3` is not the Hub"),
        ("https://huggingface.co/me/model/tree/main", "Write hf://me/model"),
        ("https://hf.co/me/model", "Write hf://me/model"),
        ("hf://models/me/model", "`models/` must be left out"),
        ("hf://datasets/me/data", "`datasets/` must be left out"),
        ("hf://model", "does not begin with a user"),
        ("hf://", "does not begin with a user"),
        ("hf://me/", "does not begin with a user"),
        ("hf://me/mo del", "does not begin with a user"),
        ("hf://me/a--b", "does not begin with a user"),
        ("hf://me/model/../other", "begins with a dot"),
        ("hf://me/model//x", "is empty"),
        ("hf://me/model/.git", "begins with a dot"),
        ("hf://me/model/a?b", "a `?`"),
        ("hf://me/model@", "not the name of a branch"),
        ("hf://me/model@a..b", "not the name of a branch"),
        ("hf://me/model@v1@v2", "not the name of a branch"),
        ("hf://user:secret@me/model", "does not begin with a user"),
    ],
)
def test_what_is_no_address_is_told_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(BadAddress) as caught:
        parse_address(text)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["gpqa", "a/b", "a/b:", "a/b: c", "https://huggingface.co/datasets/a/b:c", "a/b:../c d"]
)
def test_what_is_no_benchmark_is_none(text: str) -> None:
    assert parse_benchmark(text) is None


def test_the_file_of_a_benchmark_is_named_after_data_set_and_task() -> None:
    benchmark = parse_benchmark("MathArena/aime:MathArena/aime_2026")
    assert benchmark is not None
    assert benchmark.file == ".eval_results/aime-MathArena-aime_2026.yaml"


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    result = Result(folder=Path(), title="", answer="", report={}, files={}, changed=(), others=())
    with pytest.raises(PushError, match=r"pip install 'ladle\[hub\]'"):
        push(result, parse_address("hf://me/model"), Wishes(), print)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["s3://bucket/results/7", "hf://me/model"], "is an address"),
        (["nowhere", "hf://me/model"], "it is not a folder"),
        (["nowhere", "me/model"], "it has no `hf://`"),
        (["nowhere", "hf://me/model", "--benchmark", "gpqa"], "must be user/dataset:task"),
        (["nowhere", "hf://me/model/x", "--benchmark", "a/b:c"], "must be left out for a folder"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_read_or_asked(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["push", *arguments])
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.replace("│", "").split())
