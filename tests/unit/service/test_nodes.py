"""An operator takes nodes out and puts them back."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from ladle_contracts.tokens import Scope, StoredToken, hash_token
from ladle_service import audit
from tests.unit.service.fakes import Service, make_service, node
from tests.unit.service.test_jobs import problem_of

RunAsync = Callable[[Coroutine[Any, Any, None]], None]
VERBS = ("cordon", "drain", "uncordon")


@pytest.fixture
def guarded(tmp_path: Path) -> Service:
    tokens = [StoredToken(name=scope.value, digest=hash_token(scope), scope=scope) for scope in Scope]
    path = tmp_path / "tokens"
    path.write_text("\n".join(token.line() for token in tokens))
    made = make_service(tmp_path / "service", tokens_file=path)
    made.store.machines = [node("n1"), node("n2")]
    return made


def test_an_admin_drains_a_node_and_puts_it_back_and_hears_what_changed(guarded: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with guarded.client("admin") as client:
            for verb, cordoned, draining in (
                ("cordon", "cordoned by admin", False),
                ("uncordon", None, False),
                ("drain", "drained by admin", True),
            ):
                for changed in (True, False):
                    answer = (await client.post(f"/v1/nodes/n1/{verb}")).json()
                    assert answer["changed"] is changed, verb
                    assert (answer["node"]["cordoned"], answer["node"]["draining"]) == (cordoned, draining)
            answer = (await client.post("/v1/nodes/n2/drain", params={"now": "true", "reason": "a new disk"})).json()
            assert answer["node"]["cordoned"] == "drained by admin: a new disk"

    run_async(use())


@pytest.mark.parametrize("scope", [Scope.READ, Scope.SUBMIT])
def test_nobody_else_may(guarded: Service, run_async: RunAsync, scope: Scope) -> None:
    async def use() -> None:
        async with guarded.client(scope) as client:
            for verb in VERBS:
                for name in ("n1", "nothing"):
                    answer = problem_of(await client.post(f"/v1/nodes/{name}/{verb}"))
                    assert answer[:2] == (403, "forbidden")
        assert guarded.store.machines[0].cordoned is None

    run_async(use())


@pytest.mark.parametrize("verb", VERBS)
def test_a_node_that_is_not_there_is_said_with_those_that_are(guarded: Service, run_async: RunAsync, verb: str) -> None:
    async def use() -> None:
        async with guarded.client("admin") as client:
            answer = problem_of(await client.post(f"/v1/nodes/n3/{verb}"))
            assert answer == (404, "not-found", "There is no node `n3`. Known are: `n1`, `n2`.")
            assert problem_of(await client.post(f"/v1/nodes/{'x' * 200}/{verb}"))[:2] == (404, "not-found")
            assert problem_of(await client.post(f"/v1/nodes/n1/{verb}?soon=true"))[:2] == (422, "invalid-request")
            guarded.store.machines = [node(f"n{number}") for number in range(12)]
            assert problem_of(await client.post(f"/v1/nodes/x/{verb}"))[2].endswith("`n9` and 2 more.")

    run_async(use())


def test_what_failed_last_on_a_node_is_for_an_admin(guarded: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        guarded.store.machines = [node("n1").model_copy(update={"last_failure": "/data/ann is gone"})]
        async with guarded.client("admin") as admin, guarded.client("read") as reader:
            assert (await admin.get("/v1/nodes")).json()["nodes"][0]["last_failure"] == "/data/ann is gone"
            assert (await reader.get("/v1/nodes")).json()["nodes"][0]["last_failure"] is None

    run_async(use())


def test_the_audit_log_has_each_change_of_a_node(tmp_path: Path, guarded: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with guarded.client("admin") as client:
            for verb in VERBS:
                await client.post(f"/v1/nodes/n1/{verb}")
        async with guarded.client("submit") as client:
            await client.post("/v1/nodes/n1/drain")

    writer = audit.log_to(tmp_path / "audit.jsonl")
    try:
        run_async(use())
    finally:
        writer.stop()
        for handler in writer.handlers:
            handler.close()
        audit.logger.handlers.clear()
        audit.logger.propagate = True
    entries = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(entry["action"], entry["node"], entry["token"], entry["result"]) for entry in entries] == [
        ("cordon node", "n1", "admin", "done"),
        ("drain node", "n1", "admin", "done"),
        ("uncordon node", "n1", "admin", "done"),
        ("drain node", "n1", "submit", "refused"),
    ]
