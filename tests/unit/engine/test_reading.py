"""Files are opened once, read by place, and no more often than is needed; and nothing that they do ends the process."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ladle_engine import CheckpointError, EngineError, average, candidate_state, combine_checkpoints, discover, rebuild
from ladle_engine.checkpoints.hashing import HashedReaders
from ladle_engine.checkpoints.readers import open_all, open_checkpoint
from ladle_engine.checkpoints.tensor_kinds import same_bits
from ladle_engine.methods import AUTO_METHODS
from ladle_engine.placements import exact_weights
from ladle_engine.progress import ProgressEvent, StageStarted
from ladle_engine.storage.hashed_file import HashedFile
from ladle_engine.storage.input_file import COUNTS, InputFile
from tests.builders import quick_options
from tests.polling import DEADLINE_S
from tests.unit.engine.toy import ToyTask, write_checkpoints

SMALL = 0.05
"""Of one reading: headers, and what is looked at twice."""
K = 5
QUICK = {name: options for name, options in quick_options(K, steps=4).items() if name in AUTO_METHODS}


def wide_net() -> nn.Module:
    """1.1 MB, so that headers are little beside it."""
    return nn.Sequential(
        nn.Linear(6, 512), nn.BatchNorm1d(512), nn.Tanh(), nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 1)
    )


class Tied(nn.Module):
    """Half of what its files hold is there twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 512)
        self.inner = nn.Linear(512, 512, bias=False)
        self.again = nn.Linear(512, 512, bias=False)
        self.again.weight = self.inner.weight
        self.last = nn.Linear(512, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.tanh(self.again(torch.tanh(self.inner(torch.tanh(self.first(x)))))))
        return result


def as_files(folder: Path, kind: str, build: Callable[[], nn.Module] = wide_net) -> list[Path]:
    """K checkpoints of one kind of file; returns all weight files."""
    folder.mkdir()
    base = build().state_dict()
    for number in range(K):
        state = {
            name: (each + 0.1 * torch.randn(each.shape)).clone() if each.is_floating_point() else each + number
            for name, each in base.items()
        }
        if "again.weight" in state:
            state["again.weight"] = state["inner.weight"].clone()
        write_as(folder, kind, number, state)
    return sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".pt"))


def write_as(folder: Path, kind: str, number: int, state: dict[str, Tensor]) -> None:
    if kind == "safetensors":
        save_file(state, folder / f"step-{number}.safetensors")
    elif kind == "bfloat16":
        halves = {name: each.bfloat16() if each.is_floating_point() else each for name, each in state.items()}
        save_file(halves, folder / f"step-{number}.safetensors")
    elif kind == "shards":
        home = folder / f"checkpoint-{number}"
        home.mkdir()
        weight_map = {name: f"model-{1 + i % 2:05}-of-00002.safetensors" for i, name in enumerate(state)}
        for file in set(weight_map.values()):
            save_file({name: each for name, each in state.items() if weight_map[name] == file}, home / file)
        (home / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    else:
        torch.save({"model": state, "step": number}, folder / f"step-{number}.pt")


class Counted:
    """Readings of all files and openings of each, from here to the end."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.total = sum(path.stat().st_size for path in files)
        self.at: dict[str, float] = {}
        """Stage -> readings before it began."""
        COUNTS.clear()

    def __call__(self, event: ProgressEvent) -> None:
        if isinstance(event, StageStarted):
            self.at.setdefault(event.stage, self.readings)

    @property
    def readings(self) -> float:
        return sum(COUNTS.bytes[path] for path in self.files) / self.total

    @property
    def most_openings(self) -> int:
        return max(COUNTS.opens[path] for path in self.files)


@pytest.mark.parametrize("kind", ["safetensors", "bfloat16", "shards", "pt"])
def test_auto_reads_all_files_three_times_at_most_and_opens_each_once(tmp_path: Path, kind: str) -> None:
    files = as_files(tmp_path / "in", kind)
    counted = Counted(files)
    average(
        tmp_path / "in", tmp_path, output=tmp_path / "out", task=ToyTask(wide_net, count=600),
        method_options={"options": QUICK}, progress=counted,
    )  # fmt: skip
    assert counted.at["evaluate"] - counted.at["check"] == pytest.approx(1.0, abs=SMALL), "one checks, hashes and fills"
    assert counted.at["check"] < SMALL, "headers alone"
    assert counted.readings - counted.at["write"] <= 1 + SMALL, "one writes"
    assert counted.readings <= 3 + SMALL
    assert counted.most_openings == 1


def test_with_little_memory_candidates_are_judged_from_more_readings_and_just_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(as_files(tmp_path / "in", "bfloat16"))
    scores, readings = [], []
    for name, free in (("much", 1 << 40), ("little", 0)):
        monkeypatch.setattr(exact_weights, "available_bytes", lambda device, free=free: free)
        counted = Counted(counted.files)
        outcome = average(
            tmp_path / "in", tmp_path, output=tmp_path / name, task=ToyTask(wide_net),
            method_options={"options": QUICK}, progress=counted,
        )  # fmt: skip
        scores.append([score.select for score in outcome.candidates])
        readings.append(counted.readings)
    assert scores[0] == scores[1]
    assert readings[1] > readings[0] + 2


def test_tied_tensors_that_are_stored_twice_are_compared_without_another_reading(tmp_path: Path) -> None:
    counted = Counted(as_files(tmp_path / "in", "safetensors", Tied))
    average(tmp_path / "in", tmp_path, output=tmp_path / "out", task=ToyTask(Tied), method="uniform", progress=counted)
    assert counted.readings <= 2.5


@pytest.mark.parametrize("method", ["best", "uniform"])
def test_one_method_alone_reads_no_more_than_auto(tmp_path: Path, method: str) -> None:
    counted = Counted(as_files(tmp_path / "in", "safetensors"))
    average(tmp_path / "in", tmp_path, output=tmp_path / "out", task=ToyTask(wide_net), method=method)
    assert counted.readings <= 3 + SMALL
    assert counted.most_openings == 1


def test_combining_and_rebuilding_read_everything_once(tmp_path: Path) -> None:
    counted = Counted(as_files(tmp_path / "in", "shards"))
    combine_checkpoints(tmp_path / "in", output=tmp_path / "combined")
    assert (counted.readings, counted.most_openings) == (pytest.approx(1, abs=SMALL), 1)
    average(tmp_path / "in", tmp_path, output=tmp_path / "out", task=ToyTask(wide_net), method="uniform")
    for again in (
        lambda: rebuild(tmp_path / "out", tmp_path / "in", output=tmp_path / "again", candidate="uniform"),
        lambda: candidate_state(tmp_path / "out", tmp_path / "in", "uniform"),
    ):
        counted = Counted(counted.files)
        again()
        assert counted.readings == pytest.approx(1, abs=SMALL)


def test_a_digest_is_that_of_the_file_in_whatever_order_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    content = random.Random(0).randbytes(50_000)
    path.write_bytes(content)
    for seed in range(30):
        order = random.Random(seed)
        with InputFile(path) as file:
            watched = (1000, 20_000)
            hashed = HashedFile(file, [watched])
            for _ in range(order.randrange(6)):
                start = order.randrange(len(content))
                part = bytearray(order.randrange(len(content) - start + 1))
                hashed.read_into(memoryview(part), start)
                assert part == content[start : start + len(part)]
            assert hashed.digest() == hashlib.sha256(content).hexdigest()
            assert hashed.range_digest(watched) == hashlib.sha256(content[1000:20_000]).hexdigest()


def unusual() -> dict[str, Tensor]:
    base = torch.arange(60.0).view(6, 10)
    return {
        "plain": torch.randn(70, 500),
        "column": base[:, 3],
        "transposed": base.t(),
        "every other": base.view(-1)[::2],
        "from the middle": base[2:4],
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 300),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "negative": torch.imag(torch.arange(4.0).to(torch.complex64).mul(1j).conj()),
        "half": torch.randn(3, 3).bfloat16(),
        "flags": torch.tensor([True, False]),
        "count": torch.tensor(3),
        "nothing": torch.empty(0, 4),
    }


def deflated(path: Path) -> None:
    """The same archive, compressed."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def big_endian(path: Path) -> None:
    """The same archive, said to come from a machine of the other byte order."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, b"big" if name.endswith("/byteorder") else content)


@pytest.mark.parametrize("kind", ["as it is", "legacy", "deflated", "big-endian"])
def test_every_tensor_of_a_pickle_is_what_torch_loads_whole_or_in_parts(tmp_path: Path, kind: str) -> None:
    for number in (1, 2):
        path = tmp_path / f"step-{number}.pt"
        torch.save(unusual(), path, _use_new_zipfile_serialization=kind != "legacy")
        if kind == "deflated":
            deflated(path)
        if kind == "big-endian":
            big_endian(path)
    expected = torch.load(path, weights_only=True)
    COUNTS.clear()
    with open_checkpoint(discover(tmp_path).checkpoints[1]) as reader:
        opening = COUNTS.bytes[path]
        assert (opening < path.stat().st_size) == (kind == "as it is"), "only what does not tell places is read whole"
        for name, tensor in expected.items():
            assert same_bits(reader.read(name), tensor.resolve_neg().contiguous()), name
            flat = tensor.resolve_neg().reshape(-1)
            part = torch.empty(len(flat[1:-1]), dtype=flat.dtype)
            reader.read_into(name, 1, part)
            assert same_bits(part, flat[1:-1].contiguous()), name


def test_a_compressed_record_may_be_larger_than_a_table_of_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle_engine.checkpoints.pickles.torch_archive.MAX_DIRECTORY_BYTES", 4096)
    for number in (1, 2):
        torch.save({"w": torch.randn(10_000)}, tmp_path / f"step-{number}.pt")
        deflated(tmp_path / f"step-{number}.pt")
    with open_checkpoint(discover(tmp_path).checkpoints[1]) as reader:
        assert torch.equal(reader.read("w"), torch.load(tmp_path / "step-2.pt", weights_only=True)["w"])


def test_a_pickle_that_promises_more_numbers_than_its_record_has_is_corrupt(tmp_path: Path) -> None:
    for number in (1, 2):
        torch.save({"w": torch.ones(100) * number, "v": torch.ones(100)}, tmp_path / f"step-{number}.pt")
    path = tmp_path / "step-1.pt"
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content[:16] if name.endswith("/data/0") else content)
    with pytest.raises(CheckpointError, match="must hold all numbers of `w`, but its record is too short") as caught:
        combine_checkpoints(tmp_path, output=tmp_path / "out")
    assert caught.value.code == "corrupt-checkpoint"


def test_a_pipe_or_a_device_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", Path("/dev/zero"), tmp_path):
        with pytest.raises(CheckpointError, match="must be a regular file") as caught:
            InputFile(path)
        assert caught.value.code == "unreadable-input"


def test_more_files_than_may_be_open_are_read_all_the_same(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from ladle_engine import combine_checkpoints\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 4096))\n"
        "combine_checkpoints(sys.argv[1], output=sys.argv[2])"
    )
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(80):
        save_file({"w": torch.full((3,), float(number))}, folder / f"step-{number}.safetensors")
    subprocess.run([sys.executable, "-c", program, str(folder), str(tmp_path / "out")], check=True, timeout=DEADLINE_S)
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].tolist() == [39.5] * 3


CASES = {
    "combining": ("write", "combine"),
    "the first reading": ("check", "float32"),
    "writing": ("write", "float32"),
    "streaming": ("train", "streamed"),
    "judging": ("select", "int8"),
}
"""What is going on when a file is cut: stage, and call or precision."""

CUTTING = """
import os, sys
from pathlib import Path
from ladle_engine import EngineError, average, combine_checkpoints
from ladle_engine.progress import StageStarted
from tests.unit.engine.test_reading import CASES, wide_net
from tests.unit.engine.toy import ToyTask
for case, (stage, call) in CASES.items():
    folder = Path(sys.argv[1]) / case
    file = sorted(folder.glob("step-*"))[1]
    def cut(event):
        if isinstance(event, StageStarted) and event.stage == stage:
            os.truncate(file, 5000)
    try:
        if call == "combine":
            combine_checkpoints(folder, output=folder / "out", progress=cut)
        else:
            average(folder, sys.argv[1], output=folder / "out", task=ToyTask(wide_net), method="twa",
                    method_options={"steps": 3}, precision=call, progress=cut)
    except EngineError as error:
        print(case, error.code, f"`{file}`" in error.message, (folder / "out").exists(), sep=", ", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_file_that_is_cut_while_it_is_read_is_an_error_and_no_signal(tmp_path: Path, kind: str) -> None:
    as_files(tmp_path / "files", kind)
    for case in CASES:
        shutil.copytree(tmp_path / "files", tmp_path / "cases" / case)
    ran = subprocess.run(
        [sys.executable, "-c", CUTTING, str(tmp_path / "cases")],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ran.returncode == 0, ran
    assert ran.stdout.splitlines() == [f"{case}, inputs-changed, True, False" for case in CASES]


def test_two_jobs_may_read_the_same_files_at_once(tmp_path: Path) -> None:
    """As a callback of the outer one may do."""
    checkpoints = write_checkpoints(tmp_path / "in", wide_net)
    inner: list[Path] = []

    def also(event: ProgressEvent) -> None:
        if isinstance(event, StageStarted) and event.stage in ("check", "write") and len(inner) < 2:
            inner.append(tmp_path / f"inner-{len(inner)}")
            combine_checkpoints(tmp_path / "in", output=inner[-1])

    average(tmp_path / "in", tmp_path, output=tmp_path / "out", task=ToyTask(wide_net), method="uniform", progress=also)
    assert len(inner) == 2
    expected = candidate_state(tmp_path / "out", tmp_path / "in", "uniform")
    for output in inner:
        model = load_file(output / "model.safetensors")
        torch.testing.assert_close(model["0.weight"], expected["0.weight"])
    with open_all(checkpoints) as readers:
        assert HashedReaders(readers).digests().keys() == {each.files[0] for each in checkpoints.checkpoints}


def test_a_folder_changed_between_two_calls_is_read_anew(tmp_path: Path) -> None:
    def combined(name: str) -> Any:
        combine_checkpoints(tmp_path / "in", output=tmp_path / name)
        return load_file(tmp_path / name / "model.safetensors")["0.bias"]

    write_checkpoints(tmp_path / "in", wide_net)
    first = combined("one")
    write_checkpoints(tmp_path / "in", wide_net, seed=1)
    assert not torch.equal(first, combined("two"))


def test_a_failed_opening_leaves_no_file_open(tmp_path: Path) -> None:
    as_files(tmp_path / "in", "safetensors")
    broken = tmp_path / "in" / "step-9.safetensors"
    broken.write_bytes(b"12345678" * 4)
    before = open_files()
    for _ in range(5):
        with pytest.raises(EngineError):
            combine_checkpoints(tmp_path / "in", output=tmp_path / "out")
    assert open_files() == before


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
