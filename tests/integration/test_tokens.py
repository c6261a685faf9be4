"""Tokens, audit log and refusals of the real service, as an operator and an attacker see them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ladle import LadleError, Unauthorized
from ladle_service.middleware import SECURITY_HEADERS
from tests.hostile import FORGED, HOSTILE, unsafe_in
from tests.integration.api_stack import Stack, api_stack, is_ready
from tests.polling import DEADLINE_S, until

PROGRAM = [sys.executable, "-c", "from ladle.cli import main; main()"]


def ladle_token(tokens: Path, *arguments: str, redis_url: str = "") -> str:
    environment = {**os.environ, "LADLE_TOKENS_FILE": str(tokens), "LADLE_REDIS_URL": redis_url, "COLUMNS": "160"}
    done = subprocess.run(
        [*PROGRAM, "token", *arguments], env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    return done.stdout.strip()


def is_allowed(stack: Stack, token: str) -> bool:
    with stack.client(token) as client:
        try:
            list(client.jobs())
        except Unauthorized:
            return False
        return True


@pytest.mark.slow
def test_a_token_is_made_used_replaced_and_revoked_while_the_service_runs(tmp_path: Path) -> None:
    tokens, audit = tmp_path / "tokens", tmp_path / "audit.jsonl"
    first = ladle_token(tokens, "create", "ann")
    with api_stack(tmp_path / "s", TOKENS_FILE=str(tokens), AUDIT_LOG=str(audit)) as stack:
        assert is_allowed(stack, first)
        second = ladle_token(tokens, "create", "ann", "--expires", "1d")
        until(lambda: is_allowed(stack, second), what="the new token to be taken")
        with stack.client(second) as client:
            job = client.submit(*stack.paths)
            assert job.cancel()
        listed = json.loads(ladle_token(tokens, "list", "--json", redis_url=stack.server.url))
        assert [entry["name"] for entry in listed] == ["ann", "ann"]
        assert all(entry["last_used"] for entry in listed)
        assert "s ago" in ladle_token(tokens, "list", redis_url=stack.server.url)
        ladle_token(tokens, "revoke", listed[0]["id"])
        until(lambda: not is_allowed(stack, first), what="the old token to be refused")
        assert is_allowed(stack, second)
        ladle_token(tokens, "revoke", "ann")
        until(lambda: not is_allowed(stack, second), what="everybody to be refused")
        assert "it has 0 tokens now" in stack.process.text()
        stack.process.stop()
    entries = [json.loads(line) for line in audit.read_text().splitlines()]
    changes = [(entry["action"], entry["job"], entry["token_id"]) for entry in entries if entry["action"] != "request"]
    assert changes == [("submit", job.id, listed[1]["id"]), ("cancel", job.id, listed[1]["id"])]
    assert {entry["status"] for entry in entries if entry["action"] == "request"} == {401}
    for text in (audit.read_text(), stack.process.text()):
        assert first not in text
        assert second not in text


def exchange(stack: Stack, text: str) -> tuple[str, dict[str, str]]:
    """The status line and the headers of the answer to what a client sends that is no HTTP library."""
    port = int(stack.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        connection.sendall(text.encode("latin-1"))
        answer = b""
        while b"\r\n\r\n" not in answer and (part := connection.recv(65536)):
            answer += part
    status, *lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    return status, {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


@pytest.fixture(scope="module")
def open_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with api_stack(tmp_path_factory.mktemp("open") / "s") as stack:
        yield stack


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n", "200"),
        ("GET /v1/jobs HTTP/1.1\r\nHost: evil.example\r\n\r\n", "403"),
        ("GET /v1/jobs HTTP/1.0\r\n\r\n", "403"),
        ("GET /v1/jobs HTTP/1.1\r\n\r\n", "400"),
        ("GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", "400"),
        ("GET http://evil.example/v1/jobs HTTP/1.1\r\nHost: evil.example\r\n\r\n", "403"),
        ("GET http://evil.example/v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"),
        ("GET //evil.example/v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"),
        ("GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n", "400"),
        ("not http at all\r\n\r\n", "400"),
    ],
)
def test_no_request_target_or_host_gets_around_the_check_and_every_answer_has_the_headers(
    open_stack: Stack, request_text: str, status: str
) -> None:
    line, headers = exchange(open_stack, request_text)
    assert line.split()[1] == status
    assert {name: headers.get(name.lower()) for name in SECURITY_HEADERS} == SECURITY_HEADERS


def test_no_request_forges_a_line_of_the_services_log(open_stack: Stack) -> None:
    hostile = "".join(f"%{byte:02x}" for byte in HOSTILE.encode())
    assert exchange(open_stack, f"GET /v1/jobs/{hostile}?q={hostile} HTTP/1.1\r\nHost: localhost\r\n\r\n")[0]
    exchange(open_stack, f"DELETE /{hostile} HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with open_stack.client() as client, pytest.raises(LadleError):
        client.submit(HOSTILE.replace("\0", ""), "/nowhere")
    until(lambda: FORGED in open_stack.process.text(), what="the request in the log")
    log = open_stack.process.text()
    assert not unsafe_in(log)
    assert not [line for line in log.splitlines() if line.startswith((FORGED, f"# {FORGED}"))]
    assert is_ready(open_stack)
