"""A real browser before the real service. Where there is no Chromium, these tests are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser as ChromiumBrowser

from ladle_contracts.tokens import Scope, hash_token
from tests.browser.pages import Visit, launched, visiting
from tests.integration.api_stack import ScriptedNode, Stack, api_stack

TOKENS = {"ann": Scope.SUBMIT, "bob": Scope.SUBMIT, "root": Scope.ADMIN, "eve": Scope.READ}
"""Name -> scope. Each one's token is `NAME-token`."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[ChromiumBrowser]:
    """One for the tests of a file: while it is there, no other test of the process could use asyncio."""
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Redis and a service without tokens, for the tests of a file."""
    with api_stack(tmp_path_factory.mktemp("stack")) as made:
        yield made


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The same with the tokens of some people."""
    folder = tmp_path_factory.mktemp("guarded")
    lines = [f"{name}:{hash_token(f'{name}-token')} scope={scope}\n" for name, scope in TOKENS.items()]
    tokens = folder / "tokens"
    tokens.write_text("".join(lines))
    with api_stack(folder, TOKENS_FILE=str(tokens)) as made:
        yield made


@pytest.fixture
def node(stack: Stack) -> Iterator[ScriptedNode]:
    """A node of `stack` that does what a test says."""
    made = ScriptedNode(stack.server)
    yield made
    made.close()


@pytest.fixture
def visit(chromium: ChromiumBrowser, stack: Stack, tmp_path: Path) -> Iterator[Visit]:
    """Somebody opens the service without tokens."""
    with visiting(chromium, stack.url) as made:
        yield made


@pytest.fixture
def ann(chromium: ChromiumBrowser, guarded: Stack) -> Iterator[Visit]:
    """Somebody opens the service with tokens, and has not logged in yet."""
    with visiting(chromium, guarded.url) as made:
        yield made
