"""`ladle push`: a result to the Hugging Face Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ladle.cli.arguments import AsJson
from ladle.cli.completion import complete_result
from ladle.cli.console import err, out, to_json
from ladle.cli.job_flags import WrongUsage
from ladle_contracts.far_urls import is_url
from ladle_contracts.safe_text import one_line

if TYPE_CHECKING:
    from ladle.hub.benchmark import Benchmark
    from ladle.hub.result_files import Result


def push(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="The folder of a result.", autocompletion=complete_result)
    ],
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="Where it goes: `hf://user/repo[/folder][@revision]`.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private; refuse one that is there and public.")
    ] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request in place of a commit to the branch.")
    ] = False,
    message: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The message of the commit. [default: what the result is]")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET:TASK",
            help="The validation set is this benchmark of the Hub: put the score on its leaderboard.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a result to the Hugging Face Hub in one commit, after its files were compared with the report.

    The token is that of `hf auth login`, or HF_TOKEN.

    Example: `ladle push ladle-results/resnet50-twa-3f9a2c01be hf://me/resnet50-averaged --private`
    """
    from ladle.hub.address import FORM, BadAddress, parse_address
    from ladle.hub.push import Wishes
    from ladle.hub.push import push as push_it

    try:
        place = parse_address(address)
    except BadAddress as error:
        raise WrongUsage(one_line(f"`ADDRESS` must be {FORM}, but {error}.")) from None
    wishes = Wishes(
        private=private,
        create_pr=create_pr,
        message=message,
        benchmark=_benchmark(benchmark, place.folder),
        show_progress=sys.stderr.isatty() and not as_json,
    )
    opened = _opened(result)
    for name in opened.changed:
        err.say(f"! {name} is not what Ladle wrote. It is pushed as it is now.")
    if opened.others:
        err.say(f"left out, because Ladle did not write it: {', '.join(opened.others)}")
    pushed = push_it(opened, place, wishes, err.say)
    if as_json:
        told = {"url": pushed.url, "commit": pushed.commit, "changed": pushed.changed, "deleted": list(pushed.deleted)}
        typer.echo(to_json(told, indent=2))
        return
    for path in pushed.deleted:
        err.say(f"deleted, because it belongs to an earlier model: {path}")
    if not pushed.changed:
        err.say("Nothing has changed: all of it was there already.")
    out.say(pushed.url)


def _opened(folder: Path) -> Result:
    from ladle._reports import NotAResult
    from ladle.hub.result_files import open_result

    shown = one_line(str(folder))
    if is_url(folder):
        raise WrongUsage("`RESULT` must be a folder of this machine, but is an address.")
    try:
        with err.status("comparing the files with the report ..."):
            return open_result(folder)
    except NotAResult as error:
        raise WrongUsage(one_line(f"`RESULT` must be a result of Ladle, but `{shown}` is not: {error}.")) from None
    except OSError as error:
        why = f"cannot be read: {error.strerror or error}"
        raise WrongUsage(one_line(f"`RESULT` must be a result of Ladle, but `{shown}` {why}.")) from None


def _benchmark(text: str | None, folder: str) -> Benchmark | None:
    from ladle.hub.benchmark import FORM, parse_benchmark

    if text is None:
        return None
    if (found := parse_benchmark(text)) is None:
        raise WrongUsage(f"`--benchmark` must be {FORM}, such as Idavidrein/gpqa:gpqa_diamond, but is {text!r}.")
    if folder:
        raise WrongUsage("`--benchmark` must be left out for a folder: the Hub reads only a repository's own scores.")
    return found
