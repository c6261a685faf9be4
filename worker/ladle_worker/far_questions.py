"""Questions of a confined process that opens far files, and their answers by the one that has the network.

A question is a line of JSON on the stdout of the one that looks; an empty line on its stdin says that the bytes are
here. So whoever has the network and the credentials parses no file of a stranger's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    # It imports torch, and whoever looks confines itself first.
    from ladle_engine.storage.far.fetch import Mirror


class Asking:
    """The engine's source of far bytes in the process that looks."""

    def __init__(self, answers: TextIO, questions: TextIO) -> None:
        self._answers = answers
        self._questions = questions
        self._lock = threading.Lock()

    @classmethod
    def on_standard_streams(cls) -> Asking:
        """Whatever else is printed goes to stderr: a task may print."""
        questions = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        return cls(sys.stdin, questions)

    def want(self, path: Path, start: int, stop: int | None) -> None:
        self._ask({"want": [str(path), start, stop]})

    def parts(self, path: Path) -> None:
        return None

    def is_mirrored(self, path: Path) -> bool:
        """Whoever looks does not compare: nothing is judged yet."""
        return False

    def fetch(self, wanted: Mapping[Path, Any]) -> None:
        self._ask({"fetch": {str(path): parts for path, parts in wanted.items()}})

    def refuse_changed(self) -> None:
        return

    def record(self) -> dict[str, str]:
        return {}

    def tell(self, told: Mapping[str, Any]) -> None:
        """What came of looking."""
        with self._lock:
            print(json.dumps({"told": told}), file=self._questions, flush=True)

    def _ask(self, question: Mapping[str, Any]) -> None:
        with self._lock:
            print(json.dumps(question), file=self._questions, flush=True)
            if not self._answers.readline():
                # Whoever asked has said why.
                os._exit(1)


def answered(looking: subprocess.Popen[str], mirror: Mirror) -> Any:
    """Answers a process until it ends; what it told, or None. It is ended where bytes cannot be had."""
    assert looking.stdin is not None
    assert looking.stdout is not None
    told = None
    try:
        for line in looking.stdout:
            question = json.loads(line)
            if "told" in question:
                told = question["told"]
                continue
            _answer(question, mirror)
            looking.stdin.write("\n")
            looking.stdin.flush()
    except BaseException:
        looking.kill()
        raise
    return told


def _answer(question: Mapping[str, Any], mirror: Mirror) -> None:
    if "want" in question:
        path, start, stop = question["want"]
        mirror.want(Path(path), start, stop)
    else:
        mirror.fetch({Path(path): parts for path, parts in question["fetch"].items()})
