"""Several folders of checkpoints in a job's spec, and globs: what is taken, what is refused, and what may be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ladle_contracts import JobSpec
from ladle_contracts.job_spec import read_spec
from ladle_contracts.roots import PathNotAllowed, resolve_input
from ladle_contracts.rules import broken_rules


def spec(ckpt_dir: Any) -> JobSpec:
    return JobSpec.model_validate_json(json.dumps({"ckpt_dir": ckpt_dir, "val_set": "/v"}))


@pytest.mark.parametrize("given", ["/a", "/a/*", ["/a"], ["/a", "/b/run-*"]])
def test_a_folder_a_glob_and_several_are_the_same_after_json(given: Any) -> None:
    made = spec(given)
    assert json.loads(made.model_dump_json())["ckpt_dir"] == given
    assert read_spec(made.model_dump_json()) == made
    assert list(made.ckpt_dirs.values()) == ([given] if isinstance(given, str) else given)
    assert made.with_ckpt_dirs(lambda _, path: path) == given


def test_each_of_several_has_a_field_of_its_own() -> None:
    assert spec("/a").ckpt_dirs == {"ckpt_dir": "/a"}
    assert spec(["/a", "/b"]).ckpt_dirs == {"ckpt_dir.0": "/a", "ckpt_dir.1": "/b"}
    assert spec(["/a", "/b", "/c"]).shown_ckpt_dir == "/a and 2 more"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "`ckpt_dir` must not be empty"),
        (["/a", 3], "`ckpt_dir.1` must be text, but is 3"),
        (["/a", ""], "`ckpt_dir.1` must not be empty"),
        (["/a"] * 1001, "`ckpt_dir` must have at most 1000 entries"),
        ({"a": "/a"}, "`ckpt_dir` must be text"),
        (None, "`ckpt_dir` must be text, but is None"),
        (["/a", "b\0"], "`ckpt_dir` must not contain a NUL character"),
    ],
)
def test_what_breaks_a_rule_is_told_by_its_field(given: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(given)
    told = [f"`{each.field}` {each.describe()}" for each in broken_rules(caught.value)]
    assert told
    assert told[0].startswith(message)


def test_a_glob_is_resolved_up_to_its_first_wildcard_and_only_inside_the_roots(tmp_path: Path) -> None:
    for folder in ("root/runs/a", "root/run[1]/a", "outside/a"):
        (tmp_path / folder).mkdir(parents=True)
    root, roots = tmp_path / "root", [tmp_path / "root"]
    (root / "link").symlink_to(root / "runs")
    (root / "out").symlink_to(tmp_path / "outside")
    for given, resolved in {
        "root/runs/*": "root/runs/*",
        "root/link/?/checkpoint-*": "root/runs/?/checkpoint-*",
        "root/*": "root/*",
        "root/run[1]": "root/run[1]",
        "root/run[1]/*": "root/run[1]/*",
    }.items():
        assert resolve_input(tmp_path / given, roots) == tmp_path / resolved
    for wrong in (
        "outside/*",
        "*",
        "root/out/*",
        "root/gone/*",
        "root/*/../../outside",
        "root/../outside/*",
        "root/gone",
    ):
        with pytest.raises(PathNotAllowed, match="must be an existing file or folder inside the allowed folders"):
            resolve_input(tmp_path / wrong, roots)
    with pytest.raises(PathNotAllowed):
        resolve_input("runs/*", roots)
