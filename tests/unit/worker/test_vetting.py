"""What a node finds when it looks at itself, and what is said of the nodes of a job."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from ladle_contracts import Vetting
from ladle_contracts.nodes import GpuState
from ladle_worker import vetted, vetting
from ladle_worker.vetted import Vetter, is_fresh, of_places, remarks
from ladle_worker.vetting import vet
from tests.polling import until

NOW = datetime.now(UTC)


def found(**fields: Any) -> Vetting:
    return Vetting(**{"at": NOW, "took_s": 1.0, **fields})


def gpu(name: str) -> tuple[GpuState, ...]:
    return (GpuState(name=name, free_bytes=1, total_bytes=1),)


def test_a_node_without_gpus_is_looked_at_in_a_process_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "small.safetensors").write_bytes(b"x")
    (folder / "large.safetensors").write_bytes(bytes(vetting.LEAST_READ))
    vetter = Vetter(tmp_path, gpus=0, ranks=3, roots=[str(tmp_path)], path=str(folder))
    try:
        until(lambda: vetter.poll() is not None, what="the vetting")
        told = vetter.answer()
    finally:
        vetter.end()
    assert vetter.poll() == 0, (tmp_path / "vetting.txt").read_text()
    assert (told.problem, told.gpus) == (None, ())
    assert min(told.flops or 0, told.all_reduce_bytes_per_s or 0, told.read_bytes_per_s or 0) > 0


@pytest.mark.parametrize("path", ["nothing", "small", "/etc"])
def test_where_there_is_little_to_read_nothing_is_said_about_reading(path: str, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "a.safetensors").write_bytes(b"x" * 100)
    told = vet(0, 1, [str(tmp_path)], str(tmp_path / path))
    assert (told.problem, told.read_bytes_per_s, told.read_from_cache) == (None, None, None)
    assert told.all_reduce_bytes_per_s is None, "one rank"


def test_a_file_that_somebody_holds_in_memory_is_said_to_come_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.posix_fadvise", lambda *arguments: None)
    (tmp_path / "a.safetensors").write_bytes(bytes(vetting.LEAST_READ))
    told = vet(0, 1, [str(tmp_path)], str(tmp_path))
    assert told.read_from_cache in (True, None), "it was written a moment ago; some file systems do not tell"


def test_gpus_that_are_gone_or_taken_or_fail_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert vet(2, 2, [], None).problem == "The node must have the 2 GPUs with which it started, but has 1."
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 30, 80 << 30))
    assert vet(1, 1, [], None).problem == (
        "GPU 0 (H100) must have free memory, but 1024 of 81920 MiB are free. Another program uses it."
    )

    def broken() -> tuple[int, int]:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    assert vet(1, 1, [], None).problem == "CUDA error: uncorrectable ECC error encountered"


def test_a_wrong_product_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vetting, "SIDE", 8)
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda one, other: one)
    assert vet(0, 1, [], None).problem == "A product of two matrices on cpu must be right, but is not."


@pytest.mark.parametrize(("gpus", "problem"), [(0, None), (1, "The look at its GPUs must succeed, but ended with")])
def test_a_process_that_fails_is_a_problem_of_its_gpus_if_there_are_any(
    gpus: int, problem: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vetted, "MODULE", "ladle_worker.no_such_module")
    vetter = Vetter(tmp_path, gpus=gpus, ranks=1, roots=[], path=None)
    until(lambda: vetter.poll() is not None, what="its end")
    told = vetter.answer().problem
    assert told is None if problem is None else (told or "").startswith(problem)
    vetter.end()


def test_a_process_that_hangs_is_ended_after_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vetted, "MODULE", "http.server")
    monkeypatch.setattr(vetted, "LIMIT_S", 0.0)
    vetter = Vetter(tmp_path, gpus=1, ranks=1, roots=[], path=None)
    until(lambda: vetter.poll() == -signal.SIGKILL, what="the limit")
    assert vetter.answer().problem == "Its GPUs must answer within 0 s, but do not."
    vetter.end()
    until(lambda: vetter._process.poll() is not None, what="its end")


def test_a_vetting_is_fresh_for_a_minute_unless_it_has_a_problem() -> None:
    now = datetime.now(UTC)
    assert is_fresh(found(at=now))
    assert not is_fresh(None)
    assert not is_fresh(found(at=now, problem="x"))
    assert not is_fresh(found(at=now - timedelta(seconds=61)))
    assert not is_fresh(found(at=now + timedelta(hours=1))), "a clock was set"


def test_nodes_with_different_gpus_are_told_of_with_the_slowest_one() -> None:
    nodes = {"n1": found(gpus=gpu("H100"), flops=5e13), "n2": found(gpus=gpu("A100"), flops=2e13)}
    assert list(remarks(nodes)) == [
        "The nodes have different GPUs: `n1` has H100; `n2` has A100. All wait for the slowest one, which is `n2`."
    ]
    mixed = {"n1": found(gpus=gpu("H100"), flops=5e13), "n2": found(flops=1e10)}
    assert next(remarks(mixed)).endswith("`n2` has no GPU. All wait for the slowest one, which is `n2`.")


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"flops": (1e12, 9e11, 2e11)}, "it computes at 200 GFLOP/s, and the others at 950 GFLOP/s"),
        ({"all_reduce_bytes_per_s": (3e10, 2e10, 1e9)}, "it adds up between its own ranks at 1.00 GB/s"),
        ({"read_bytes_per_s": (2e9, 2e9, 1e8)}, "it reads the checkpoints at 0.10 GB/s, and the others at 2.00 GB/s"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_node_that_is_slower_than_the_others_is_named(figures: dict[str, tuple[float, ...]], words: str) -> None:
    ((name, values),) = figures.items()
    nodes = {f"n{number}": found(**{name: value}) for number, value in enumerate(values, start=1)}
    (remark,) = remarks(nodes)
    assert remark.startswith("Node `n3` is slow: ")
    assert words in remark


def test_nodes_that_are_alike_or_read_from_memory_are_not_remarked_on() -> None:
    assert not list(remarks({"n1": found(flops=1e12), "n2": found(flops=4e11), "n3": found()}))
    assert not list(
        remarks({"n1": found(read_bytes_per_s=9e9, read_from_cache=True), "n2": found(read_bytes_per_s=1e9)})
    )
    assert not list(remarks({}))


def test_what_a_node_tells_the_others_comes_back_as_it_was() -> None:
    told = found(gpus=gpu("H100"), read_from_cache=True)
    assert of_places({"n1": told.model_dump(mode="json"), "n2": {}}) == {"n1": told}
