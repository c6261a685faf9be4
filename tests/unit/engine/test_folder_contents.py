"""Real folders: links, half-written files, other tools' layouts. Used, or passed over and said."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ladle_engine import CheckpointError, EngineError, OutputError, average, combine_checkpoints, discover, inspect
from ladle_engine.checkpoints.layouts import base
from ladle_engine.checkpoints.name_parts import names_an_average
from ladle_engine.checkpoints.order import arrange
from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.checkpoints.unlike_names import unlike_by_name
from ladle_engine.progress import CheckpointsFound, ProgressEvent
from ladle_engine.storage.input_paths import Entry
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints

NOBODY = 65534


def state(value: float) -> dict[str, Tensor]:
    return {"a": torch.full((2, 2), value), "b": torch.tensor([value])}


def two(folder: Path) -> Path:
    """A folder with `epoch-1` and `epoch-2`, which is enough for a job."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        save_file(state(float(number)), folder / f"epoch-{number}.safetensors")
        # safetensors writes files that nobody else may read.
        (folder / f"epoch-{number}.safetensors").chmod(0o644)
    return folder


TWO = ("epoch-1.safetensors", "epoch-2.safetensors")


def sharded(folder: Path, value: float, *, shards: int = 2) -> Path:
    """Two shards, of which so many are written, and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {name: f"model-{place:05}-of-00002.safetensors" for place, name in enumerate(("a", "b"), start=1)}
    for name, file in list(names.items())[:shards]:
        save_file({name: state(value)[name]}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def refused(folder: Path, **filters: object) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        discover(folder, **filters)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        ("last.safetensors", "gone", "a link to nothing"),
        ("latest", "latest", "a link to itself"),
        ("latest", "checkpoint-9", "a link to nothing"),
        ("latest-run", "/usr", "a link that leads out"),
        ("latest-run", "/nowhere", "a link that leads out"),
    ],
)
def test_a_link_that_leads_nowhere_useful_is_passed_over_and_said(
    tmp_path: Path, name: str, target: str, reason: str
) -> None:
    folder = two(tmp_path / "in")
    (folder / name).symlink_to(target)
    found = discover(folder)
    assert found.names == TWO
    assert found.warnings == (f"Passed over in `{folder}`: `{name}` ({reason}).",)
    assert discover(folder, pattern="epoch-*").warnings == ()
    assert discover(folder, exclude=name).warnings == ()


@pytest.mark.parametrize("name", ["epoch-3.safetensors", "checkpoint-3"])
def test_a_checkpoint_outside_is_refused_only_when_it_is_used(tmp_path: Path, name: str) -> None:
    folder = two(tmp_path / "in")
    elsewhere = two(tmp_path / "elsewhere")
    (folder / name).symlink_to(elsewhere / "epoch-1.safetensors" if "." in name else elsewhere)
    error = refused(folder)
    assert error.code == "path-not-allowed"
    assert f"`{folder / name}` is a link that leads out" in str(error)
    assert discover(folder, exclude=name).names == TWO
    assert discover(folder, pattern="epoch-[12]*").names == TWO
    assert discover(folder, pattern="epoch*", steps=[1, 2]).names == TWO


def test_shards_that_are_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = two(tmp_path / "in")
    sharded(folder / "checkpoint-3", 3.0)
    shard = folder / "checkpoint-3" / "model-00002-of-00002.safetensors"
    shard.rename(tmp_path / "outside.safetensors")
    shard.symlink_to(tmp_path / "outside.safetensors")
    assert refused(folder, order="name").code == "path-not-allowed"


def test_a_link_inside_the_folder_is_a_checkpoint(tmp_path: Path) -> None:
    folder = two(tmp_path / "in")
    (folder / "hidden").mkdir()
    save_file(state(3.0), folder / "hidden" / "weights")
    (folder / "epoch-3.safetensors").symlink_to("hidden/weights")
    assert discover(folder).names == (*TWO, "epoch-3.safetensors")


def test_a_result_of_ladle_among_the_checkpoints_is_passed_over_and_said(tmp_path: Path) -> None:
    folder = two(tmp_path)
    combine_checkpoints(folder, output=folder / "mean")
    assert discover(folder).names == (*TWO, "mean"), "only a folder that says so is a result"
    for name in ("coefficients.json", "report.json"):
        (folder / "mean" / name).write_text("{}")
    found = discover(folder)
    assert found.names == TWO
    assert "`mean` (a result of Ladle)" in found.warnings[0]


HALF_WRITTEN = {
    "checkpoint-80": ("config.json", "holds no weights"),
    "checkpoint-81": ("model-00001-of-00002.safetensors", "a shard without its index"),
    "tmp-checkpoint-300": ("model.safetensors", "still being written, by its name"),
    "checkpoint-82.tmp": ("model.safetensors", "still being written, by its name"),
}


@pytest.mark.parametrize(("name", "file", "reason"), [(name, *rest) for name, rest in HALF_WRITTEN.items()])
def test_a_half_written_folder_is_passed_over_and_said(tmp_path: Path, name: str, file: str, reason: str) -> None:
    folder = two(tmp_path)
    (folder / name).mkdir()
    save_file(state(3.0), folder / name / file)
    found = discover(folder)
    assert found.names == TWO
    assert len(found.warnings) == 1
    assert f"`{name}`" in found.warnings[0]
    assert reason in found.warnings[0]


@pytest.mark.parametrize("place", [".", "checkpoint-80"])
def test_an_index_whose_shards_are_not_all_there_is_passed_over_and_said(tmp_path: Path, place: str) -> None:
    folder = two(tmp_path)
    sharded(folder / place, 3.0, shards=1)
    found = discover(folder)
    assert found.names == TWO
    assert "names `model-00002-of-00002.safetensors`, which is not there" in found.warnings[0]


@pytest.mark.parametrize(
    "name", ["epoch-3.safetensors.tmp", "epoch-3.pt.part", "epoch-3.tmp.pt", "tmp.pt", "epoch-3.ckpt.incomplete"]
)
def test_a_file_under_a_temporary_name_is_passed_over_and_said(tmp_path: Path, name: str) -> None:
    folder = two(tmp_path)
    torch.save(state(3.0), folder / name)
    found = discover(folder)
    assert found.names == TWO
    assert found.warnings == (f"Passed over in `{folder}`: `{name}` (still being written, by its name).",)


def test_an_empty_file_a_pipe_and_an_archive_are_passed_over_and_said(tmp_path: Path) -> None:
    folder = two(tmp_path)
    (folder / "epoch-3.safetensors").touch()
    os.mkfifo(folder / "epoch-4.pt")
    with tarfile.open(folder / "data.tar", "w") as archive:
        archive.add(folder / TWO[0], "member")
    found = discover(folder)
    assert found.names == TWO
    for words in (
        "`epoch-3.safetensors` (empty)",
        "`epoch-4.pt` (not a regular file)",
        "`data.tar` (an archive of files)",
    ):
        assert words in found.warnings[0]
    assert len(found.warnings) == 1


def test_what_nobody_takes_for_a_checkpoint_is_not_worth_a_word(tmp_path: Path) -> None:
    folder = two(tmp_path)
    for name in ("README.md", "log.txt", "curve.png", "train.py", "optimizer.pt", "scheduler_1.bin", ".hidden.pt"):
        (folder / name).write_text("text")
    for name in ("runs", "wandb", "logs", "images-1000", "2024-05-01", "version_0"):
        (folder / name).mkdir()
        (folder / name / "notes.txt").write_text("text")
    found = discover(folder)
    assert found.names == TWO
    assert found.warnings == ()


@pytest.mark.parametrize(
    "name", ["epoch-3.pth.tar", "epoch-3.PT", "epoch-3.tar", "EPOCH-3.SafeTensors", "epoch-3.Ckpt"]
)
def test_suffixes_that_tools_and_people_write_are_read(tmp_path: Path, name: str) -> None:
    folder = two(tmp_path)
    if name.lower().endswith(".safetensors"):
        save_file(state(3.0), folder / name)
    else:
        torch.save(state(3.0), folder / name)
    output = combine_checkpoints(folder, output=tmp_path / "out")
    assert load_file(output / "model.safetensors")["b"].item() == 2.0


def test_shards_at_the_top_are_one_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for step in (1, 2):
        sharded(folder / f"checkpoint-{step}", float(step))
    sharded(folder, 2.0)
    found = discover(folder)
    assert found.names == ("checkpoint-1", "checkpoint-2")
    assert "`checkpoint-2` and `model.safetensors.index.json` hold the same weights" in found.warnings[0]
    sharded(folder, 6.0)
    assert discover(folder).names == ("checkpoint-1", "checkpoint-2", "model.safetensors.index.json")
    output = combine_checkpoints(folder, output=tmp_path / "out")
    assert load_file(output / "model.safetensors")["b"].item() == 3.0


def test_a_second_model_of_accelerates_folder_is_said(tmp_path: Path) -> None:
    for number in (0, 1):
        home = tmp_path / f"checkpoint_{number}"
        home.mkdir()
        save_file(state(float(number)), home / "model.safetensors")
        save_file(state(5.0), home / "model_1.safetensors")
    found = discover(tmp_path)
    assert found.names == ("checkpoint_0", "checkpoint_1")
    assert found.warnings == (
        f"Passed over in `{tmp_path}`: `checkpoint_0/model_1.safetensors`, `checkpoint_1/model_1.safetensors` "
        f"(beside `model.safetensors`, which is used).",
    )
    assert discover(tmp_path, exclude="checkpoint_[!01]*").names == found.names


@pytest.mark.parametrize("file", ["model.pt", "weights.pth", "ep1-rank0.pt"])
def test_the_only_weights_in_a_folder_named_as_a_checkpoint_are_used(tmp_path: Path, file: str) -> None:
    for step in (1000, 2000):
        home = tmp_path / f"step{step}-unsharded"
        home.mkdir()
        torch.save(state(float(step)), home / file)
        torch.save({"lr": 1.0}, home / "optim.pt")
    assert discover(tmp_path).names == ("step1000-unsharded", "step2000-unsharded")


OTHERS = {
    "adapter": ("adapter_config.json", "an adapter without weights"),
    "model.gguf": ("", "in GGUF format, which Ladle does not read"),
    "step-3.npz": ("", "in NumPy format, which Ladle does not read"),
    "step-3": ("", "its name ends in none of .safetensors, .pt, .pth, .bin, .ckpt, .tar, .nemo"),
    "model.keras": ("", "in Keras format, which Ladle does not read"),
    "model.weights.h5": ("", "model.load_weights('FILE')"),
    "tf_model.h5": ("", "`CLASS.from_pretrained('FOLDER', from_tf=True).save_pretrained('NEW')`"),
    "flax_model.msgpack": ("", "`CLASS.from_pretrained('FOLDER', from_flax=True).save_pretrained('NEW')`"),
}


@pytest.mark.parametrize(("name", "files", "reason"), [(name, *rest) for name, rest in OTHERS.items()])
def test_where_nothing_is_found_what_there_is_is_named(tmp_path: Path, name: str, files: str, reason: str) -> None:
    for file in files.split():
        path = tmp_path / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("weights")
    if not files:
        (tmp_path / name).write_text("weights")
    error = refused(tmp_path)
    assert error.code == "no-checkpoints"
    assert f"`{name}` (" in str(error)
    assert reason in str(error)


@pytest.mark.parametrize(
    "name", ["epoch-3", "epoch-3.pt.gz", "epoch-3.pt.bak", "epoch-3.pt~", "epoch-3.model", "ckpt_3.zip"]
)
def test_a_checkpoint_by_its_name_with_no_suffix_that_is_read_is_said(tmp_path: Path, name: str) -> None:
    folder = two(tmp_path)
    torch.save(state(3.0), folder / name)
    found = discover(folder)
    assert found.names == TWO
    suffixes = ".safetensors, .pt, .pth, .bin, .ckpt, .tar, .nemo"
    assert found.warnings == (f"Passed over in `{folder}`: `{name}` (its name ends in none of {suffixes}).",)


@pytest.mark.parametrize("name", ["epoch-1_optimizer.pt", "2_scheduler.pt", "epoch-3-optim.pth", "epoch_3.rng.pt"])
def test_what_training_needs_besides_is_no_checkpoint_wherever_its_name_says_so(tmp_path: Path, name: str) -> None:
    folder = two(tmp_path)
    torch.save({"exp_avg": torch.ones(2)}, folder / name)
    found = discover(folder)
    assert found.names == TWO
    assert found.warnings == (
        f"Passed over in `{folder}`: `{name}` (what a trainer keeps beside the weights, by its name).",
    )


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"
OTHER_CONTENTS: dict[str, tuple[str, bytes, str]] = {
    "Git LFS": (".safetensors", POINTER, "a pointer of Git LFS to the file. Run `git lfs pull`"),
    "Git LFS as .pt": (".pt", POINTER, "a pointer of Git LFS to the file. Run `git lfs pull`"),
    "a web page": (".bin", b"\n<!DOCTYPE html><html>404</html>", "a web page or XML. Download the file again"),
    "an error of a store": (".ckpt", b"<?xml version='1.0'?><Error/>", "a web page or XML. Download the file again"),
    "compressed": (".pt", b"\x1f\x8b\x08\x00more", "compressed. Unpack it"),
    "Keras": (".ckpt", b"\x89HDF\r\n\x1a\n", "in HDF5 format"),
}


@pytest.mark.parametrize(("suffix", "content", "words"), OTHER_CONTENTS.values(), ids=OTHER_CONTENTS)
def test_contents_that_are_no_checkpoint_are_named_with_what_to_do(
    tmp_path: Path, suffix: str, content: bytes, words: str
) -> None:
    folder = two(tmp_path)
    (folder / f"epoch-3{suffix}").write_bytes(content)
    error = refused(folder)
    assert error.code == "corrupt-checkpoint"
    assert f"`{folder / f'epoch-3{suffix}'}` must hold weights, but is" in error.message
    assert words in error.message
    assert error.message.endswith(", or leave it out with `exclude=`.")
    assert discover(folder, exclude="epoch-3*").names == TWO


def test_a_suffix_of_another_format_is_named_with_the_right_one(tmp_path: Path) -> None:
    for zipped in (True, False):
        folder = two(tmp_path / str(zipped))
        torch.save(state(3.0), folder / "epoch-3.safetensors", _use_new_zipfile_serialization=zipped)
        assert "is a file of `torch.save`. Rename it to end in `.pt`" in refused(folder).message
    folder = two(tmp_path / "other")
    save_file(state(3.0), folder / "epoch-3.pt")
    assert "is a safetensors file. Rename it to end in `.safetensors`" in refused(folder).message


@pytest.mark.parametrize("names", ["step1_rank{}.pt", "model-rank-{}.pth", "consolidated.0{}.pth"])
def test_files_of_several_ranks_are_no_checkpoints_of_their_own(tmp_path: Path, names: str) -> None:
    for rank in (0, 1):
        torch.save(state(float(rank)), tmp_path / names.format(rank))
    error = refused(tmp_path)
    assert error.code == "mismatched-checkpoints"
    assert f"`{names.format(0)}` and `{names.format(1)}` are parts of one, by the ranks in their names" in error.message


@pytest.mark.parametrize("names", ["step1_rank0 step2_rank0", "lora_rank8 lora_rank16", "frank1 frank0"])
def test_one_rank_of_each_and_other_ranks_are_checkpoints(tmp_path: Path, names: str) -> None:
    for number, name in enumerate(names.split()):
        torch.save(state(float(number)), tmp_path / f"{name}.pt")
    assert len(discover(tmp_path).names) == 2


def test_the_same_weights_from_every_rank_count_once(tmp_path: Path) -> None:
    for step in (1, 2):
        for rank in (0, 1):
            torch.save(state(float(step)), tmp_path / f"step{step}_rank{rank}.pt")
    assert discover(tmp_path).names == ("step1_rank0.pt", "step2_rank0.pt")


def test_averages_of_training_beside_other_checkpoints_are_said(tmp_path: Path) -> None:
    folder = two(tmp_path)
    for number in (1, 2):
        save_file(state(10.0 + number), folder / f"epoch-{number}-ema.safetensors")
    found = discover(folder)
    assert found.warnings == (
        "`epoch-1-ema.safetensors` and 1 more are averages by their names, and the other checkpoints are not; they are "
        "used as checkpoints too. "
        "`exclude=` leaves one kind out.",
    )
    assert discover(folder, exclude="*ema*").warnings == ()
    assert discover(folder, pattern="*ema*").warnings == ()


AVERAGED = [
    *("avg_5.pt", "avg5.pt", "valid.acc.ave.pth", "valid.acc.ave_5best.pth", "checkpoint_avg.pt", "checkpoint.avg5.pt"),
    *("averaged.pt", "model_avg.pt", "model--averaged.nemo", "checkpoint_avg_last10.pt", "greedy_soup.pt", "swa.pt"),
]
NO_AVERAGES = [
    *("average-length/step-1.pt", "avgpool.pt", "best_avg_acc.pt", "epoch=3-avg_loss=0.3.ckpt", "model-avg_0.93.pt"),
    *("wave.pt", "avg-reward-100.pt", "save_5.pt"),
]


@pytest.mark.parametrize("name", AVERAGED)
def test_averages_that_scripts_leave_beside_checkpoints_are_said_and_are_not_the_last(name: str) -> None:
    assert names_an_average(name)
    names = ("epoch_3.pt", "epoch_12.pt", name)
    ordered = arrange([Checkpoint(name=each, step=None, files=(Path(each),), format="pickle") for each in names])
    assert [each.name for each in ordered.checkpoints] == [name, "epoch_3.pt", "epoch_12.pt"]
    assert ordered.reason == "epoch"
    (said,) = unlike_by_name(["epoch_3.pt", name])
    assert f"`{name}` is an average by its name" in said


@pytest.mark.parametrize("name", NO_AVERAGES)
def test_names_with_an_average_of_something_else_are_no_averages(name: str) -> None:
    assert not names_an_average(name)
    assert unlike_by_name(["epoch_3.pt", name]) == ()


def test_weights_from_before_training_are_said(tmp_path: Path) -> None:
    folder = two(tmp_path)
    save_file(state(0.5), folder / "init.safetensors")
    found = discover(folder)
    assert found.names[0] == "init.safetensors"
    assert found.warnings[0].startswith("`init.safetensors` is from before training by its name")
    rows = {row.name: row.notes for row in inspect(folder).checkpoints}
    assert rows["init.safetensors"] == ("from before training by its name",)
    assert not any(notes for name, notes in rows.items() if name != "init.safetensors")


def test_a_folder_without_anything_like_a_checkpoint_is_listed(tmp_path: Path) -> None:
    assert "It is empty." in str(refused(tmp_path))
    (tmp_path / "notes.md").write_text("hello")
    assert "It holds: `notes.md`." in str(refused(tmp_path))


def test_what_is_excluded_is_left_out_and_a_misspelling_is_said(tmp_path: Path) -> None:
    folder = two(tmp_path)
    for number in (3, 4):
        save_file(state(float(number)), folder / f"ema-{number}.safetensors")
    assert discover(folder, exclude="ema-*").names == TWO
    assert discover(folder, exclude=["ema-3*", "*-4.safetensors"]).names == TWO
    assert discover(folder, exclude="ema-*").warnings == ()
    assert f"no name in `{folder}` matches `emma-*`" in discover(folder, exclude="emma-*").warnings[0]
    assert "but leaves none of: `ema-3.safetensors`, " in str(refused(folder, exclude="*"))
    with pytest.raises(ValueError, match="`exclude` must be a text or several"):
        discover(folder, exclude=[3])  # type: ignore[list-item]


def test_a_name_that_is_not_utf_8_is_passed_over_and_said(tmp_path: Path) -> None:
    folder = two(tmp_path)
    save_file(state(3.0), folder / "3.safetensors")
    (folder / "3.safetensors").rename(folder / os.fsdecode(b"epoch-\xff.safetensors"))
    found = discover(folder)
    assert found.names == TWO
    assert found.warnings[0].encode().decode() == (
        f"Passed over in `{folder}`: `epoch-\\udcff.safetensors` (a name that is not UTF-8)."
    )


@pytest.mark.parametrize("name", ["7²", "٣", "epoch-٣", "1e999", "9" * 200, "-", "(", "epoch=", "=3"])
def test_no_name_is_too_odd(tmp_path: Path, name: str) -> None:
    folder = two(tmp_path)
    (folder / name).mkdir()
    save_file(state(3.0), folder / name / "model.safetensors")
    assert sorted(discover(folder).names) == sorted((*TWO, name))
    assert name in discover(folder, order="epoch").names


@contextmanager
def as_another_user() -> Iterator[None]:
    """Root may read everything: then the block runs as nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that another user may list; pytest's own are closed to others."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def closed(path: Path) -> Path:
    path.chmod(0)
    return path


def test_an_unreadable_checkpoint_is_named_if_it_is_used(shared: Path) -> None:
    folder = two(shared / "in")
    torch.save(state(3.0), folder / "epoch-3.pt")
    torch.save(state(4.0), folder / "epoch-4.pt")
    closed(folder / "epoch-3.pt")
    with as_another_user():
        error = refused(folder)
        chosen = discover(folder, exclude="epoch-3*").names
        last = discover(folder, steps=[1, 2, 4], last=2).names
    assert error.code == "unreadable-input"
    assert f"`{folder / 'epoch-3.pt'}` must be readable, but is not: Permission denied" in str(error)
    assert chosen == (*TWO, "epoch-4.pt")
    assert last == ("epoch-2.safetensors", "epoch-4.pt")


@pytest.mark.parametrize("place", ["checkpoint-3", "config.json", "tokenizer.json", "."])
def test_an_unreadable_folder_or_side_file_is_named(shared: Path, place: str) -> None:
    folder = two(shared / "in")
    if place.startswith("checkpoint"):
        (folder / place).mkdir()
        save_file(state(3.0), folder / place / "model.safetensors")
    elif place != ".":
        (folder / place).write_text("{}")
    mode = (folder / place).stat().st_mode
    closed(folder / place)
    try:
        with as_another_user():
            error = refused(folder, order="name")
    finally:
        (folder / place).chmod(mode)
    assert error.code == "unreadable-input"
    assert f"`{folder / place}` must be readable" in str(error)


def removing(path: Path) -> Callable[[ProgressEvent], None]:
    """Removes a file as soon as the checkpoints are found."""

    def listen(event: ProgressEvent) -> None:
        if isinstance(event, CheckpointsFound):
            path.unlink()

    return listen


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_checkpoint_that_disappears_meanwhile_is_named(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2, 3):
        save = save_file if suffix == "safetensors" else torch.save
        save(state(float(number)), folder / f"epoch-{number}.{suffix}")  # type: ignore[operator]
    gone = folder / f"epoch-1.{suffix}"
    with pytest.raises(EngineError, match=r"must stay as it is .* is gone\.") as caught:
        combine_checkpoints(folder, output=tmp_path / "out", progress=removing(gone))
    assert caught.value.code == "inputs-changed"
    assert f"`{gone}`" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["step-1.safetensors", "tokenizer.json"])
def test_a_file_that_disappears_during_a_job_is_named(tmp_path: Path, name: str) -> None:
    folder = write_checkpoints(tmp_path / "in", plain_net, count=3).folder
    (folder / "tokenizer.json").write_text("{}")
    task = ToyTask(plain_net)
    with pytest.raises(EngineError, match=r"must stay as it is .* is gone\.") as caught:
        average(folder, folder, output=tmp_path / "out", task=task, method="uniform", progress=removing(folder / name))
    assert caught.value.code == "inputs-changed"
    assert f"`{folder / name}`" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_is_removed_while_the_folder_is_looked_at_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = two(tmp_path)
    listed = base.entries_of(folder)
    gone = [
        Entry("checkpoint-9", is_link=False, is_folder=True, is_regular=False),
        Entry("epoch-3.safetensors", is_link=False, is_folder=False, is_regular=True),
    ]
    entries_of = base.entries_of

    def stale(path: Path, most: int | None = None) -> list[Entry]:
        return [*listed, *gone] if path == folder else entries_of(path, most)

    monkeypatch.setattr(base, "entries_of", stale)
    found = discover(folder)
    assert found.names == TWO
    assert found.warnings == (f"Passed over in `{folder}`: `epoch-3.safetensors`, `checkpoint-9` (removed just now).",)


def test_an_output_that_cannot_be_made_is_refused_before_anything_is_read(shared: Path) -> None:
    folder = two(shared / "in")
    (shared / "file").write_text("no folder")
    (shared / "theirs").mkdir(mode=0o755)
    for output in (shared / "file" / "out", shared / "theirs" / "out", shared / "theirs" / "deep" / "out"):
        seen: list[ProgressEvent] = []
        if "theirs" in str(output) and os.geteuid() != 0:
            (shared / "theirs").chmod(0o555)
        with as_another_user(), pytest.raises(OutputError) as caught:
            combine_checkpoints(folder, output=output, progress=seen.append)
        assert caught.value.code == "results-unwritable"
        assert f"`{output}`" in str(caught.value)
        assert seen == []
