"""The snippets of the documents run as they stand, or say why not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.docs.snippets import CONSOLE, FOR_A_SERVICE, REPOSITORY, Snippet, all_snippets, snippets_of
from tests.docs.worlds import ELSEWHERE, WORLDS


def migration_is_right(names: dict[str, Any]) -> None:
    """torch's own running mean and ours are the same, to the rounding of float32."""
    mean = load_file("mean/model.safetensors")
    for name, tensor in names["averaged"].module.state_dict().items():
        torch.testing.assert_close(mean[name], tensor, rtol=1e-6, atol=1e-6)
    weights = [load_file(f"models/{name}/model.safetensors")["w"].double() for name in "ab"]
    merged = load_file("merged/model.safetensors")["w"]
    assert merged.equal((0.3 * weights[0] + 0.7 * weights[1]).float())


def metrics_are_right(names: dict[str, Any]) -> None:
    values = {
        name: torch.tensor([2.0, 4.0], dtype=torch.float64) for name in ("nll", "tokens", "hits", "found", "true")
    }
    all_once = torch.ones(1, 2, dtype=torch.float64)
    found = {metric.name: float(metric.of(values, all_once)[0]) for metric in names["metrics"]}
    assert found == pytest.approx({"perplexity": math.e, "f1": 1.0, "loss": 1.0})
    names["test_my_task_follows_the_rules"]()


def the_head_stage_is_averaged(names: dict[str, Any]) -> None:
    assert {candidate.method for candidate in names["outcome"].candidates} == {"best", "twa"}
    assert Path("better/model.safetensors").exists()


AFTERWARDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "docs/head-stage.md": the_head_stage_is_averaged,
    "docs/migration.md": migration_is_right,
    "docs/tasks/your-own.md": metrics_are_right,
}
"""What must be true when the snippets of a page have run."""


def in_process(page: str) -> list[Snippet]:
    """The Python of a page that runs here."""
    return [
        snippet
        for snippet in snippets_of(page)
        if snippet.language == "python" and snippet.why_not is None and FOR_A_SERVICE not in snippet.text
    ]


def is_run(snippet: Snippet) -> bool:
    if snippet.page in ELSEWHERE:
        return True
    if snippet.language in CONSOLE:
        return False
    return FOR_A_SERVICE in snippet.text or snippet.page in WORLDS


def test_every_snippet_is_run_or_says_why_not() -> None:
    code = [snippet for snippet in all_snippets() if snippet.language in ("python", *CONSOLE)]
    assert len(code) > 60
    assert not [snippet.name for snippet in code if snippet.why_not is None and not is_run(snippet)]
    assert not [page for page in WORLDS if not in_process(page)]
    assert not [file for file in ELSEWHERE.values() if not (REPOSITORY / file).exists()]


@pytest.mark.parametrize("page", WORLDS)
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["snippet"])
    ended: list[tuple[str, Any]] = []
    names = {"__name__": "__main__", **WORLDS[page](tmp_path)}
    for snippet in in_process(page):
        try:
            exec(compile("\n" * (snippet.line - 1) + snippet.text, page, "exec"), names)
        except SystemExit as end:
            ended.append((snippet.name, end.code))
    assert [name for name, code in ended if code] == []
    AFTERWARDS.get(page, lambda names: None)(names)
