"""A stack for one other program: `python -m ladle.cli.hosted`. It ends when that program closes our standard input.

The first line there says the roots and the folder of results; our first line says the address and the token, or why
the stack cannot start. The other program may have threads and a GPU: it must not fork or handle signals for us.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ladle._client import Client
from ladle._errors import LadleError
from ladle.cli.console import err, to_json
from ladle.cli.local import Stopped, stoppable
from ladle.cli.stack import StackError, StackOptions, running_stack

END_S = 60.0
"""How long the stack may take to end."""


@contextmanager
def hosted_stack(roots: Sequence[Path | str], results: Path) -> Iterator[Client]:
    """A client of a stack that is ready inside the block and has ended after it, in processes of its own.

    Any thread may call it. Raises `StackError`.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "ladle.cli.hosted"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(),
        text=True,
        # Ctrl-C is for the training, which ends this stack by itself.
        start_new_session=True,
    ) as process:
        try:
            with _client_of(process, {"roots": [str(root) for root in roots], "results": str(results)}) as client:
                yield client
        finally:
            _end(process)


def main() -> None:
    """The other side of `hosted_stack`."""
    with stoppable():
        try:
            asked = json.loads(sys.stdin.readline())
            _serve(StackOptions(roots=asked["roots"], results=Path(asked["results"]), state=Path()))
        except LadleError as error:
            _answer({"error": str(error)})
        except Stopped:
            pass


def _serve(options: StackOptions) -> None:
    with tempfile.TemporaryDirectory(prefix="ladle-") as state:
        of_its_own = StackOptions(roots=options.roots, results=options.results, state=Path(state) / "stack")
        with running_stack(of_its_own, err.say) as stack:
            _answer({"url": stack.url, "token": stack.token})
            sys.stdin.read()


def _environment() -> dict[str, str]:
    """Without the one thread that torchrun gives to each of several ranks."""
    by_torchrun = {"OMP_NUM_THREADS"} if "TORCHELASTIC_RUN_ID" in os.environ else set()
    return {name: value for name, value in os.environ.items() if name not in by_torchrun}


def _answer(values: dict[str, str]) -> None:
    print(to_json(values), flush=True)


def _client_of(process: subprocess.Popen[str], asked: dict[str, object]) -> Client:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
    line = process.stdout.readline()
    answer = json.loads(line) if line else {"error": "The stack ended before it was ready."}
    if "error" in answer:
        raise StackError(answer["error"])
    return Client(answer["url"], answer["token"])


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()


if __name__ == "__main__":
    main()
