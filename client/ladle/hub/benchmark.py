"""A score on a benchmark of the Hub, as the file in `.eval_results/` that its leaderboard reads.

See https://huggingface.co/docs/hub/eval-results and eval_results.yaml in huggingface/hub-docs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FORM = "user/dataset:task"
_GIVEN = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}):([A-Za-z0-9][\w./-]{0,95})")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A task of a data set that is registered on the Hub."""

    dataset: str
    task: str

    @property
    def file(self) -> str:
        """Where its score stands in a repository."""
        return f".eval_results/{self.dataset.rpartition('/')[2]}-{re.sub(r'[^A-Za-z0-9_-]', '-', self.task)}.yaml"


def parse_benchmark(text: str) -> Benchmark | None:
    """None for what is not `user/dataset:task`."""
    found = _GIVEN.fullmatch(text)
    return None if found is None else Benchmark(dataset=found[1], task=found[2])


def eval_results(benchmark: Benchmark, report: Mapping[str, Any]) -> bytes:
    """The winner's score on the select split. Raises KeyError or StopIteration for a report that has none."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    metric = report["metric"]["name"]
    winner = next(row for row in report["candidates"] if row["method"] == report["winner"])
    count, candidates = report["splits"]["select"], len(report["candidates"])
    entry = EvalResultEntry(
        dataset_id=benchmark.dataset,
        task_id=benchmark.task,
        value=winner["select"][metric],
        notes=f"{metric} on {count} examples that trained nothing; the best of {candidates} candidates on them",
    )
    text: str = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
    return text.encode()
