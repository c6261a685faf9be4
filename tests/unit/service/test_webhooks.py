"""What the operator and a job may say of webhooks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ladle_contracts import JobSpec
from ladle_contracts.tokens import Scope, StoredToken, hash_token
from ladle_service.__main__ import main
from ladle_service.webhooks import calling
from ladle_service.webhooks.calling import Caller
from ladle_service.webhooks.signing import Secret, new_secret, read_secret
from tests.unit.service.fakes import make_service

Run = Callable[[Coroutine[Any, Any, None]], None]


def secret_file(folder: Path, text: str | None = None) -> Path:
    path = folder / "webhook-secret"
    path.write_text(f"{new_secret()}\n" if text is None else text)
    return path


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_AAAA", "hunter2hunter2hunter2hunter2hunter2", "whsec_!!!", "\xff"]
)
def test_a_file_that_is_no_secret_is_refused_without_being_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setenv("LADLE_ROOTS", str(tmp_path))
    monkeypatch.setenv("LADLE_RESULTS_DIR", str(tmp_path))
    monkeypatch.setenv("LADLE_WEBHOOK_SECRET_FILE", str(secret_file(tmp_path, text)))
    assert main([]) == 2
    told = capsys.readouterr().err
    assert "`LADLE_WEBHOOK_SECRET_FILE` cannot be used" in told
    assert "python -m ladle_service webhook-secret" in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("LADLE_WEBHOOKS", "https://example.org/x", "`LADLE_WEBHOOK_SECRET_FILE` must be set"),
        ("LADLE_WEBHOOKS", "https://user:hunter2@example.org/", "without a user or a password"),
        ("LADLE_WEBHOOK_PRIVATE", "everything", "must hold networks"),
        ("LADLE_METRICS", "everybody", "`LADLE_METRICS`"),
        ("LADLE_WEBHOOK_SECRET_FILE", "/nowhere/secret", "/nowhere/secret"),
    ],
)
def test_a_wrong_setting_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    told: str,
) -> None:
    monkeypatch.setenv("LADLE_ROOTS", str(tmp_path))
    monkeypatch.setenv("LADLE_RESULTS_DIR", str(tmp_path))
    monkeypatch.setenv(variable, value)
    assert main([]) == 2
    message = capsys.readouterr().err
    assert told in message
    assert "hunter2" not in message


def test_the_command_prints_a_new_secret_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["webhook-secret"]) == main(["webhook-secret"]) == 0
    one, other = capsys.readouterr().out.split()
    assert one != other
    assert str(read_secret(secret_file(tmp_path, one))) == one


def test_each_owner_has_a_secret_of_their_own() -> None:
    secret = Secret(b"k" * 32)
    assert str(secret.of_owner("ann")) == str(Secret(b"k" * 32).of_owner("ann"))
    assert len({str(each) for each in (secret, secret.of_owner("ann"), secret.of_owner("bob"))}) == 3


@pytest.mark.parametrize(
    ("settings", "url", "told"),
    [
        ({}, "https://example.org/", "has not set `LADLE_WEBHOOK_SECRET_FILE`"),
        ({"secret": True}, "http://example.org/", "must begin with `https://`"),
        ({"secret": True}, "https://example.org/", None),
        ({"secret": True, "webhook_private": ("10.0.0.0/8",)}, "http://10.1.2.3/", None),
    ],
)
def test_a_job_may_name_addresses_where_they_can_be_signed(
    tmp_path: Path, run_async: Run, settings: dict[str, Any], url: str, told: str | None
) -> None:
    if settings.pop("secret", False):
        settings = settings | {"webhook_secret_file": secret_file(tmp_path)}
    service = make_service(tmp_path / "service", **settings)

    async def check() -> None:
        async with service.client() as client:
            answer = await client.post("/v1/jobs", json=service.spec(webhooks=url))
        if told is None:
            assert answer.status_code == 202
            assert answer.json()["spec"]["webhooks"] == [url]
        else:
            assert answer.status_code == 422
            assert told in answer.json()["detail"]
            assert answer.json()["errors"][0]["field"] == "webhooks"

    run_async(check())


def test_a_token_that_may_only_read_does_not_get_the_secret(tmp_path: Path, run_async: Run) -> None:
    tokens = tmp_path / "tokens"
    scopes = {"reader": Scope.READ, "ann": Scope.SUBMIT, "bob": Scope.ADMIN}
    lines = [StoredToken(name=name, digest=hash_token(name), scope=scope).line() for name, scope in scopes.items()]
    tokens.write_text("\n".join(lines) + "\n")
    tokens.chmod(0o600)
    service = make_service(tmp_path / "service", tokens_file=tokens, webhook_secret_file=secret_file(tmp_path))

    async def check() -> None:
        answers = {}
        for name in (*scopes, None):
            async with service.client(name) as client:
                answers[name] = await client.get("/v1/webhook-secret")
        assert [answer.status_code for answer in answers.values()] == [403, 200, 200, 401]
        assert answers["ann"].json() != answers["bob"].json()
        assert answers["ann"].json()["secret"].startswith("whsec_")

    run_async(check())


def test_without_a_secret_there_is_none_to_get(tmp_path: Path, run_async: Run) -> None:
    service = make_service(tmp_path)

    async def check() -> None:
        async with service.client() as client:
            answer = await client.get("/v1/webhook-secret")
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found")

    run_async(check())


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/", "example.org", "https://", "https:///x", "https://u:hunter2@example.org/", "https://example.org/#x",
        "https://example.org:0/", "https://example.org:99999/", "https://exa mple.org/", "https://example.org/\n",
        "https://exämple.org/", "javascript:alert(1)", "https://[::1", "https:\\\\example.org", "x" * 3000, "",
    ],
)  # fmt: skip
def test_what_is_no_web_address_is_refused_and_its_password_not_shown(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate({"ckpt_dir": "/c", "val_set": "/v", "webhooks": url}, strict=False)
    assert "webhooks" in str(caught.value)
    assert "hunter2" not in str([error["msg"] for error in caught.value.errors()])


def test_names_that_nobody_answers_for_keep_nothing_else_of_the_service_waiting(
    monkeypatch: pytest.MonkeyPatch, run_async: Run
) -> None:
    """The tokens file, for one, is read in a thread too."""
    answered = threading.Event()

    def look_up(host: str, port: int) -> list[Any]:
        answered.wait(60)
        raise OSError

    async def check() -> None:
        caller = Caller()
        calls = [asyncio.create_task(caller.post(f"https://{n}.example/", b"{}", {})) for n in range(100)]
        await asyncio.sleep(0)
        try:
            await asyncio.wait_for(asyncio.to_thread(lambda: None), 10)
        finally:
            answered.set()
            await asyncio.gather(*calls, return_exceptions=True)

    monkeypatch.setattr(calling, "look_up", look_up)
    run_async(check())
