"""The command's flags for a job are the contract's options, and what they say is checked before anything starts."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ladle._spec import build_spec
from ladle.cli.app import app, run
from ladle.cli.job_commands import submit
from ladle.cli.job_flags import JobArguments, JobCommand, with_job_flags
from ladle.cli.wording import in_flags
from ladle_contracts.command_flags import ARGUMENTS, FLAGS
from ladle_contracts.spec_fields import SPEC_FIELDS

RUNNER = CliRunner()


def parsed(arguments: Sequence[str], sets: Sequence[str] = ("v",)) -> JobArguments:
    """What a command of these flags is called with."""
    given: list[JobArguments] = []
    program = typer.Typer()

    @program.command(cls=JobCommand)
    @with_job_flags
    def command(job: JobArguments) -> None:
        given.append(job)

    done = RUNNER.invoke(program, ["c", *sets, *arguments])
    assert done.exit_code == 0, done.stderr
    return given[0]


def refused(arguments: Sequence[str], sets: Sequence[str] = ("v",)) -> str:
    """The message, as one line without its frame."""
    done = RUNNER.invoke(app, ["run", "c", *sets, *arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    return " ".join(line.strip("│ ") for line in done.stderr.splitlines())


def test_every_option_of_a_job_has_one_flag() -> None:
    assert sorted([*ARGUMENTS, *(flag.path for flag in FLAGS)]) == sorted(field.path for field in SPEC_FIELDS)
    assert len({flag.parameter for flag in FLAGS}) == len(FLAGS)


@pytest.mark.parametrize("command", [run, submit])
def test_both_commands_take_all_flags_and_show_the_contracts_help(command: Any) -> None:
    parameters = inspect.signature(command).parameters
    assert {*ARGUMENTS, *(flag.parameter for flag in FLAGS)} <= set(parameters)
    for flag in FLAGS:
        assert flag.field.help, f"`{flag.path}` must have a docstring in the contract"
        (option,) = parameters[flag.parameter].annotation.__metadata__
        assert flag.field.help in option.help
        assert flag.field.limits in option.help


def test_what_is_not_given_is_not_sent() -> None:
    assert parsed([]).options == {}
    assert parsed(["--last", "3"]).options == {"checkpoints": {"last": 3}}


def test_values_are_read_as_what_they_are() -> None:
    job = parsed(
        [
            *("--steps", "100,0.25", "--exclude", "best*", "--exclude", "tmp/*", "--order", "epoch"),
            *("--select-fraction", "0.25", "--seed", "7", "--pattern", "7"),
            *("--method-option", "steps=40", "--method-option", "groups=layers", "--method-option", 'a={"b": [1]}'),
            *("--skip-tensor", "head.*", "--skip-tensor", "embed", "--like", "epoch=1.pt"),
            *("--take-from", "epoch=3.pt", "lm_head*", "--take-from=epoch=3.pt", "norm", "--take-from", "a", "-b"),
            *("--label", "run=1", "--label", "equation=a=b", "--train-set", "t"),
            *("--base-model", "b", "--adapter-rank", "8", "--curve-earlier", "r"),
        ]
    )
    assert job.options == {
        "checkpoints": {
            "pattern": "7",
            "exclude": ["best*", "tmp/*"],
            "order": "epoch",
            "steps": [100, 0.25],
            "like": "epoch=1.pt",
            "skip_tensors": ["head.*", "embed"],
            "take_from": {"epoch=3.pt": ["lm_head*", "norm"], "a": ["-b"]},
        },
        "select_fraction": 0.25,
        "seed": 7,
        "method": {"options": {"steps": 40, "groups": "layers", "a": {"b": [1]}}},
        "labels": {"run": "1", "equation": "a=b"},
        "train_set": {"path": Path("t")},
        "adapters": {"base_model": Path("b"), "rank": 8},
        "curve": {"earlier": Path("r")},
    }
    assert job.inputs == [Path("c"), Path("v"), Path("t"), Path("b"), Path("r")]


@pytest.mark.parametrize(
    ("sets", "read"),
    [
        (["val.npz"], Path("val.npz")),
        (["clean=a.npz"], {"clean": Path("a.npz")}),
        (["clean=a.npz", "noisy=/data/lr=0.1/b.npz"], {"clean": Path("a.npz"), "noisy": Path("/data/lr=0.1/b.npz")}),
        (["v=x=y.npz"], {"v": Path("x=y.npz")}),
        (["runs/lr=0.1/val.npz"], Path("runs/lr=0.1/val.npz")),
        (["./lr=0.1.npz"], Path("./lr=0.1.npz")),
        (["=a.npz"], Path("=a.npz")),
        (["a="], Path("a=")),
        (["there=a.npz"], Path("there=a.npz")),
        (["there=a.npz", "b=c"], {"there": Path("a.npz"), "b": Path("c")}),
    ],
    ids=str,
)
def test_a_validation_set_is_a_path_and_each_of_several_has_a_name(
    sets: list[str], read: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there=a.npz").touch()
    job = parsed(["--seed", "1"], sets)
    assert job.val_set == read
    assert job.inputs == [Path("c"), *(read.values() if isinstance(read, dict) else [read])]


def test_a_switch_and_weights_are_read_among_the_sets() -> None:
    job = parsed(["--no-set-worse", "--judge-by", "a=1", "--judge-by", "b=0.5"], ["a=x", "b=y"])
    assert job.options == {"judge_by": {"a": 1, "b": 0.5}, "no_set_worse": True}
    assert parsed(["--judge-by", "mean"], ["a=x", "b=y"]).options == {"judge_by": "mean"}


@pytest.mark.parametrize(
    ("sets", "arguments", "message"),
    [
        (["a=x", "y"], [], "Each of several `VAL_SET` must be NAME=PATH, but one is 'y'."),
        (["x", "y"], [], "Each of several `VAL_SET` must be NAME=PATH, but one is 'x'."),
        (["a=x", "a=y"], [], "Each of several `VAL_SET` must have a name of its own, but two are `a`."),
        ([f"{'a' * 101}=x"], [], "`VAL_SET` must have at most 100 characters"),
        (["a=x", "b=y"], ["--judge-by", "c=1"], "`--judge-by` must name validation sets (a, b), and there is no `c`"),
        (["a=x", "b=y"], ["--judge-by", "b"], "`--judge-by` must be `first`, `mean` or NAME=WEIGHT, but is 'b'."),
        (["a=x", "b=y"], ["--judge-by", "b=x"], "`--judge-by` must be a number, but is 'x'."),
        (["a=x", "b=y"], ["--judge-by", "mean", "--judge-by", "first"], "must be `first`, `mean` or NAME=WEIGHT."),
        (["a=x", "b=y"], ["--judge-by", "mean", "--judge-by", "a=1"], "must be NAME=VALUE, but is 'mean'."),
        (["v"], ["--judge-by", "v=1"], "`--judge-by` must name validation sets, but the only one has no name."),
    ],
    ids=str,
)  # fmt: skip
def test_sets_that_mean_nothing_are_told(sets: list[str], arguments: list[str], message: str) -> None:
    assert message in refused(arguments, sets)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--last", "0"], "`--last` must be at least 1, but is 0."),
        (["--last", "x"], "`--last` must be a whole number, but is 'x'."),
        (["--seed", "1.5"], "`--seed` must be a whole number, but is 1.5."),
        (["--steps", "1,x"], "`--steps` must be numbers with commas between, but is '1,x'."),
        (["--order", "size"], "`--order` must be `auto`, `step`, `epoch`, `name` or `modified`, but is 'size'."),
        (["--exclude", "best*", "--exclude", ""], "`--exclude` must not be empty, but is ''."),
        (["--select-fraction", "2"], "`--select-fraction` must be below 1, but is 2."),
        (["--select-fraction", "nan"], "`--select-fraction` must be a number, but is 'nan'."),
        (["--dtype", "int4"], "`--dtype` must be `keep`, `float32`, `bfloat16` or `float16`, but is 'int4'."),
        (["--train-set-use", "batchnorm"], "`--train-set` must be given."),
        (["--label", "a"], "`--label` must be NAME=VALUE, but is 'a'."),
        (["--label", f"a={'x' * 300}"], "`--label` must have at most 200 characters, but is 'xxx"),
        (["--name", "../up"], "`--name` must be one folder name"),
        (["--pattern", ""], "`--pattern` must not be empty"),
        (["--skip-tensor", ""], "`--skip-tensor` must not be empty, but is ''."),
        (["--take-from", "a", ""], "`--take-from` must not be empty, but is ''."),
        (["--take-from", "a"], "`--take-from` must be followed by two values, CHECKPOINT GLOB, but 'a' is one."),
        (["--take-from", "a", "--seed", "1"], "`--take-from` must be followed by two values"),
        (["--like", ""], "`--like` must not be empty"),
        (["--last", "0", "--priority", "101"], "`--priority` must be at most 100, but is 101."),
    ],
)
def test_a_rule_that_is_broken_is_told_by_flag_before_anything_starts(arguments: list[str], message: str) -> None:
    assert message in refused(arguments)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("pass `url=`.", "pass `--url`."),
        ("`checkpoints.last` must be at most 3", "`--last` must be at most 3"),
        ("`val_set` and `train_set.path`", "`VAL_SET` and `--train-set`"),
        ("`last` is a link to `config.json`", "`last` is a link to `config.json`"),
        ("`metric` must be among accuracy", "`--metric` must be among accuracy"),
        ("`labels` must be strings", "`--label` must be strings"),
        ("`val.npz` must hold an array named `labels` or `y`", "`val.npz` must hold an array named `labels` or `y`"),
    ],
)
def test_the_clients_words_become_the_commands(said: str, told: str) -> None:
    assert in_flags(said) == told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "--port", "x"], "'--port': must be a whole number from 0 to 65535, but is 'x'."),
        (["up", "--port", "70000"], "'--port': must be a whole number from 0 to 65535, but is '70000'."),
        (["list", "--limit", "0"], "'--limit': must be a whole number of at least 1, but is '0'."),
        (["list", "--state", "asleep"], "'--state': must be one of queued, scheduled"),
        (["list", "--label", "a"], "`--label` must be NAME=VALUE, but is 'a'."),
        (["logs", "j", "--tail", "1.5"], "'--tail': must be a whole number from 1 to 2000, but is '1.5'."),
    ],
)
def test_other_flags_say_their_rule_too(arguments: list[str], message: str) -> None:
    done = RUNNER.invoke(app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert message in done.stderr


def test_further_folders_of_checkpoints_are_given_by_a_flag() -> None:
    assert parsed([]).ckpt_dir == Path("c")
    assert parsed(["--also", "d", "--also", "e/*"]).ckpt_dir == (Path("c"), Path("d"), Path("e/*"))


def test_of_a_glob_its_folder_must_be_there_and_something_must_match(tmp_path: Path) -> None:
    (tmp_path / "runs" / "run-1").mkdir(parents=True)
    for given, needed in {"runs/run-*": "runs", "runs/gone-*": "runs/gone-*", "runs": "runs"}.items():
        job = JobArguments(ckpt_dir=(tmp_path / given,), val_set=Path("v"), options={})
        assert job.inputs[0] == tmp_path / needed


def test_a_glob_that_the_shell_has_taken_is_told() -> None:
    message = refused([], sets=("runs/b", "runs/c", "v"))
    assert (
        "A glob for `CKPT_DIR` stands in quotes, such as 'runs/*', and each further folder after `--also`." in message
    )


def test_a_base_may_be_the_name_of_a_checkpoint_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "checkpoint-0").mkdir(parents=True)
    for given, expected in (
        ("checkpoint-0", "runs/checkpoint-0"),
        ("models/pretrained", "models/pretrained"),
        ("/models/pretrained", "/models/pretrained"),
        ("s3://bucket/pretrained", "s3://bucket/pretrained"),
    ):
        spec = build_spec("runs", "v", {"base": given})
        assert spec.base == (expected if "://" in expected else str(tmp_path / expected))
    assert build_spec(["runs", "more"], "v", {"base": "checkpoint-0"}).base == str(tmp_path / "checkpoint-0")
    job = JobArguments(ckpt_dir=Path("runs"), val_set=Path("v"), options={"base": Path("checkpoint-0")})
    assert job.inputs == [Path("runs"), Path("v"), tmp_path / "runs" / "checkpoint-0"]
