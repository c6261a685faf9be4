"""Every call of `ladle` in the documents is one that the command takes, and every option that they name is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from ladle.cli.app import app
from tests.docs.snippets import commands, mentions, options

CALLS = list(commands())
COMMAND: Any = typer.main.get_command(app)
OF_OTHERS = {
    *("--quick", "--device", "--minutes", "--only", "--out"),  # our scripts
    *("--no-requeue", "--dependency", "--strict"),  # sbatch, MkDocs
    *("--no-use-ema", "--model-ema"),  # timm, torchvision
    *("--checkpoint-upper-bound", "--num-update-checkpoints"),  # fairseq
    *("--use-averaged-model", "--finetune", "--no-load-optim", "--tag"),  # icefall, Megatron, DeepSpeed
}
"""Options of other programs that the documents name alone."""


def parse(arguments: list[str]) -> None:
    """As the program does it, without doing anything: an unknown command or option, or a wrong value, is an error."""
    command, context = COMMAND, COMMAND.make_context("ladle", list(arguments))
    while context._protected_args:
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


def below(command: Any) -> Iterator[Any]:
    """A command with all that it has below it."""
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from below(each)


def options_of(command: Any) -> set[str]:
    return {"--help"} | {
        name for each in below(command) for option in each.params for name in (*option.opts, *option.secondary_opts)
    }


@pytest.mark.parametrize(
    ("page", "arguments"), CALLS, ids=[f"{page}:{number}" for number, (page, _) in enumerate(CALLS)]
)
def test_a_call_in_the_documents_is_taken(page: str, arguments: list[str]) -> None:
    parse(arguments)


def test_there_are_many_calls_and_a_wrong_one_is_found() -> None:
    assert len(CALLS) > 60
    with pytest.raises(Exception, match="o such option"):
        parse(["run", "checkpoints", "val.npz", "--no-such-option"])


def test_every_command_in_running_text_is_there_with_its_options() -> None:
    wrong = []
    for page, text in mentions():
        command = COMMAND
        for word in text.split():
            if word in getattr(command, "commands", {}):
                command = command.commands[word]
            elif (re.fullmatch(r"[a-z-]+", word) and getattr(command, "commands", {})) or (
                word.startswith("--") and word.rstrip("],.").split("=")[0] not in options_of(command)
            ):
                wrong.append(f"{page}: ladle {text}")
    assert not wrong


def test_every_option_in_running_text_is_one_of_the_command() -> None:
    known = options_of(COMMAND) | OF_OTHERS
    assert not [f"{page}: {option}" for page, option in options() if option not in known]
