"""The GPU check, with a CPU in the GPU's place and nothing installed but what the engine needs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.polling import DEADLINE_S
from tests.unit.benchmarks.bare import REPOSITORY, bare_environment

pytestmark = pytest.mark.slow

BENCHMARKS = REPOSITORY / "benchmarks"
LEFT_OUT = set() if importlib.util.find_spec("triton") else {"kernels"}


@dataclass(frozen=True, kw_only=True)
class Ran:
    status: int
    said: str
    result: dict[str, Any]
    text: str
    """The Markdown file."""

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        return {part["name"]: part for part in self.result["parts"]}


def result_in(folder: Path) -> tuple[dict[str, Any], str]:
    (file,) = folder.glob("gpu-check-cpu-*.json")
    return json.loads(file.read_text()), file.with_suffix(".md").read_text()


def run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The command as it is, run from another folder."""
    folder = tmp_path_factory.mktemp("whole")
    out = folder / "out"
    command = [str(BENCHMARKS / "gpu_check.py"), "--device", "cpu", "--quick", "--out", str(out)]
    done = run(command, folder, bare_environment(folder / "site"))
    assert (out).exists(), done.stderr
    result, text = result_in(out)
    return Ran(status=done.returncode, said=done.stdout, result=result, text=text)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Ran]:
    """What `broken_check` said, and its first check."""
    folder = tmp_path_factory.mktemp("broken")
    script = Path(__file__).with_name("broken_check.py")
    done = run([str(script), str(folder)], folder, bare_environment(folder / "site"))
    assert (folder / "said.json").exists(), done.stderr
    said = json.loads((folder / "said.json").read_text())
    result, text = result_in(folder)
    return said, Ran(status=said["status"], said=done.stdout, result=result, text=text)


def test_every_part_passes(whole: Ran) -> None:
    statuses = {name: part["status"] for name, part in whole.parts.items()}
    assert len(statuses) == 10
    assert statuses == {name: "skipped" if name in LEFT_OUT else "passed" for name in statuses}, whole.text
    assert whole.status == 0
    assert f"{10 - len(LEFT_OUT)} of 10 parts passed" in whole.said


def test_nothing_of_ladle_was_installed_and_the_machine_is_described(whole: Ran) -> None:
    machine = whole.result["machine"]
    assert machine["versions"]["ladle"] == "not installed"
    assert {"torch", "python", "triton"} <= machine["versions"].keys()
    assert machine["cores"] == os.cpu_count()
    assert machine["memory_bytes"] > 0
    assert isinstance(machine["load"], float)


def test_the_figures_are_there(whole: Ran) -> None:
    parts = whole.parts
    precisions = parts["precisions"]["figures"]
    assert precisions["moved"] > 0.1
    assert 0 < precisions["int8"]["from_cpu_float32"] < precisions["int4"]["from_cpu_float32"]
    placed = {run["job"]: run["difference"] for run in parts["placements"]["figures"]["runs"]}
    assert placed.keys() == {"replicated", "by-parameter", "by-checkpoint", "sharded-model"}
    assert {"train twa", "write", "verify"} <= parts["auto-job"]["figures"]["stages"].keys()
    assert [run["tier"] for run in parts["rows"]["figures"]["runs"]] == ["float32", "int4"]
    (steps,) = parts["steps"]["figures"]["results"].values()
    assert [run["tier"] for run in steps["runs"]] == ["float32", "int4", "streamed"]
    assert parts["memory"]["figures"]["lowered"]["precision"] == "streamed"
    assert "ran out of memory" in " ".join(parts["memory"]["lines"])
    for name in ("determinism", "resume"):
        assert "BatchNorm" in parts[name]["figures"]


def test_the_page_and_the_markdown_name_every_part_and_no_folder_of_this_machine(whole: Ran) -> None:
    page = (REPOSITORY / "docs" / "gpu.md").read_text()
    for name in whole.parts:
        assert f"| `{name}` |" in page
        assert f"## {name}: " in whole.text
    assert str(REPOSITORY) not in whole.text
    assert "| resume | passed |" in whole.text


def test_a_part_that_fails_is_recorded_with_its_traceback_and_the_others_go_on(
    broken: tuple[dict[str, Any], Ran],
) -> None:
    _, ran = broken
    assert ran.status == 1
    assert {name: part["status"] for name, part in ran.parts.items()} == {
        **dict.fromkeys(("raises", "exits", "crashes"), "failed"),
        "wrong-kernels": "failed",
        **dict.fromkeys(("skips", "measures", "lacks"), "skipped"),
        "fine": "passed",
    }
    raises = ran.parts["raises"]
    assert raises["reason"] == "ValueError: this is broken"
    assert 'raise ValueError("this is broken")' in raises["traceback"]
    assert raises["figures"] == {"half": 21}, "what was found before it failed"
    assert ran.parts["fine"]["figures"] == {"answer": 42}
    assert "> ValueError: this is broken" in ran.text
    assert 'raise ValueError("this is broken")' in ran.text


def test_a_part_that_ends_its_process_or_hangs_has_failed_and_keeps_its_figures(
    broken: tuple[dict[str, Any], Ran],
) -> None:
    said, ran = broken
    assert ran.parts["exits"]["reason"] == "Its process ended with status 3."
    assert ran.parts["crashes"]["reason"] == "Its process ended by SIGSEGV."
    assert said["hangs"]["reason"] == "It was ended after 1 s."
    assert said["hangs"]["status"] == "failed"
    assert ran.parts["crashes"]["figures"] == said["hangs"]["figures"] == {"half": 21}


@pytest.mark.skipif("kernels" in LEFT_OUT, reason="there is no Triton here")
def test_one_wrong_number_of_a_kernel_is_noticed(broken: tuple[dict[str, Any], Ran]) -> None:
    _, ran = broken
    assert "float32 2 x 63: first expand, second expand" in ran.parts["wrong-kernels"]["reason"]


def test_no_time_skips_benchmarks_and_no_checks(broken: tuple[dict[str, Any], Ran]) -> None:
    said, ran = broken
    assert ran.parts["measures"]["reason"] == "the 0 minutes are used up"
    assert ran.parts["lacks"]["reason"] == "it needs no_such_package, which is not installed"
    assert said["only"] == 0
    assert len(said["rows"]["runs"]) == 1
    assert said["rows"]["left_out"] == ["int4, N = 10: no time was left"]
    assert said["steps"] == "no time was left"


def test_ranks_that_share_a_gpu_are_not_asked_for_what_nccl_cannot_do(broken: tuple[dict[str, Any], Ran]) -> None:
    said, _ = broken
    for gpus, starts in said["starts"].items():
        for start in starts:
            shares_a_gpu = start["ranks"] > int(gpus)
            assert set(start["must_run"]) <= set(start["placements"])
            if shares_a_gpu and "nccl" in start["backend"]:
                assert start["jobs"] == ["replicated", "replicated, int8"]
            if not shares_a_gpu:
                assert start["must_run"] == start["placements"]
                assert "by-parameter, BatchNorm" in start["jobs"]
    every = {"replicated", "by-parameter", "by-checkpoint", "by-node", "sharded-model"}
    assert set(said["starts"]["4"][-1]["must_run"]) == every


def test_without_a_gpu_the_check_says_so(tmp_path: Path) -> None:
    environment = bare_environment(tmp_path / "site") | {"CUDA_VISIBLE_DEVICES": ""}
    done = run([str(BENCHMARKS / "gpu_check.py"), "--out", str(tmp_path / "out")], tmp_path, environment)
    assert done.returncode == 2
    assert "`device` must be one that torch can use here" in done.stdout
    assert not (tmp_path / "out").exists()
