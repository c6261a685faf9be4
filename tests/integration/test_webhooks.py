"""Webhooks over a real Redis and a real web server: every end of a job is told, also over crashes and refusals."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from standardwebhooks import Webhook, WebhookVerificationError

from ladle_contracts import Reason, keys
from ladle_service.webhooks import calling
from ladle_service.webhooks.calling import Caller
from ladle_service.webhooks.deliveries import OF_ONE_OWNER, Deliveries, Targets
from ladle_service.webhooks.signing import Secret, new_secret
from tests.integration.api_stack import ScriptedNode, api_stack
from tests.integration.machine import SPEC, Machine
from tests.integration.test_tls import Certificates
from tests.polling import until
from tests.receivers import Receiver, receiver
from tests.servers import RedisServer

LOOPBACK = ("127.0.0.0/8",)
SECRET = Secret(b"k" * 32)
OWNER = "me"


@pytest.fixture
def web() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


class Told:
    """The part of the scheduler that tells, on a Redis in which a test ends jobs."""

    def __init__(self, server: RedisServer, machine: Machine) -> None:
        self.server, self.machine = server, machine

    def end_job(self, *webhooks: str, owner: str = OWNER) -> str:
        job = f"job-{self.machine.jobs + 1}"
        self.machine.jobs += 1
        spec = json.dumps({**SPEC, "webhooks": webhooks})
        self.machine.call("submit", job, owner, spec, 0, 1, 1, 3, "", "", 1000, "", "", 1, "")
        self.machine.call("cancel", job)
        return job

    def run(self, rounds: int = 1, *, always: tuple[str, ...] = (), fence: str | None = None, **options: Any) -> None:
        """Every round waits until all of its calls have been noted."""

        async def run() -> None:
            async with Redis.from_url(self.server.url, decode_responses=True) as redis:
                caller = Caller(options.pop("private", _networks()))
                deliveries = Deliveries(redis, Targets(secret=SECRET, always=always), caller, **options)
                for _ in range(rounds):
                    await deliveries.step(fence or self.machine.fence)
                    await asyncio.gather(*deliveries._running.values())

        asyncio.run(run())

    def state(self, job: str) -> dict[str, Any]:
        return {url: json.loads(text) for url, text in self.machine.redis.hgetall(keys.webhooks(job)).items()}

    def waiting(self) -> list[str]:
        found: list[str] = self.machine.redis.zrange(keys.WEBHOOKS, 0, -1)
        return found

    def is_due_now(self, job: str, *urls: str) -> None:
        """The time of the next call has come."""
        for url in urls:
            noted = self.state(job)[url] | {"due_s": 0.0}
            self.machine.redis.hset(keys.webhooks(job), url, json.dumps(noted))
        self.machine.redis.zadd(keys.WEBHOOKS, {job: 0})


def _networks() -> list[Any]:
    return [ipaddress.ip_network(each) for each in LOOPBACK]


@pytest.fixture
def told(shared_server: RedisServer, machine: Machine) -> Told:
    return Told(shared_server, machine)


def test_an_end_is_told_once_with_a_signature_that_the_standards_library_takes(told: Told, web: Receiver) -> None:
    mine, operators = f"{web.url}/mine", f"{web.url}/operators"
    job = told.end_job(mine)
    told.run(2, always=(operators,))
    assert sorted(request.path for request in web.requests) == ["/mine", "/operators"]
    for request in web.requests:
        own = SECRET if request.path == "/operators" else SECRET.of_owner(OWNER)
        payload: Any = Webhook(str(own)).verify(request.body, request.headers)
        assert payload["type"] == "job.cancelled"
        assert payload["data"]["id"] == job
        assert payload["data"]["reason"] == "cancelled"
        other = SECRET.of_owner("somebody-else")
        with pytest.raises(WebhookVerificationError):
            Webhook(str(other)).verify(request.body, request.headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(str(own)).verify(request.body + b" ", request.headers)
    assert told.waiting() == []
    assert {each["went"] for each in told.state(job).values()} == {"delivered"}


def test_what_is_refused_is_tried_again_with_the_same_id_until_it_is_taken_or_given_up(
    told: Told, web: Receiver
) -> None:
    good, bad = f"{web.url}/good", f"{web.url}/bad"
    statuses = {"/good": iter([500, 302, 200]), "/bad": iter([503] * 9)}
    web.answer = lambda request: next(statuses[request.path])
    job = told.end_job(good, bad)
    for _ in range(4):
        told.run(waits_s=(60, 60, 60))
        before = len(web.requests)
        told.run(waits_s=(60, 60, 60))
        assert len(web.requests) == before, "nothing is called before it is due"
        told.is_due_now(job, good, bad)
    told.run(waits_s=(60, 60, 60))
    calls = [request.path for request in web.requests]
    assert (calls.count("/good"), calls.count("/bad")) == (3, 4)
    assert "/moved" not in calls, "redirects are not followed"
    assert len({request.headers["webhook-id"] for request in web.requests}) == 1
    state = told.state(job)
    assert (state[good]["went"], state[bad]["went"]) == ("delivered", "given-up")
    assert told.waiting() == []
    assert told.machine.redis.hget(keys.COUNTS, "webhook given-up") == "1"


def test_a_receiver_that_says_gone_is_not_called_again(told: Told, web: Receiver) -> None:
    web.answer = lambda request: 410
    job = told.end_job(web.url)
    told.run(2)
    assert len(web.requests) == 1
    assert told.state(job)[web.url]["went"] == "given-up"


def test_a_scheduler_that_died_before_it_noted_the_call_makes_the_next_one_call_again(
    told: Told, web: Receiver
) -> None:
    """At least once: the receiver tells the two apart by `webhook-id`."""
    job = told.end_job(web.url)
    told.run(fence="an-old-fence")
    assert told.waiting() == [job], "a deposed scheduler notes nothing"
    told.run()
    assert len(web.requests) == 2
    assert len({(request.headers["webhook-id"], request.body) for request in web.requests}) == 1
    assert told.waiting() == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/", "http://localhost:9/", "https://[::1]:9/", "http://169.254.169.254/latest", "http://10.1.2.3/",
        "https://192.168.0.1/", "http://[::ffff:127.0.0.1]:9/", "http://0.0.0.0:9/", "http://[fe80::1]/", "http://2130706433:9/",
        "http://[64:ff9b::7f00:1]:9/", "http://100.64.0.1/",
    ],
)  # fmt: skip
def test_private_addresses_are_refused_unless_the_operator_allows_them(told: Told, url: str) -> None:
    job = told.end_job(url)
    told.run(private=())
    failure = told.state(job)[url]["failure"]
    assert "not a public address" in failure or "no name" in failure, failure


def test_a_name_is_looked_up_once_and_the_connection_goes_to_the_address_that_was_checked(
    told: Told, web: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: a name that is public while it is checked, and private a moment later."""
    looked_up: list[str] = []
    answers = iter(["203.0.113.7", "127.0.0.1"])

    def look_up(host: str, port: int) -> list[Any]:
        looked_up.append(host)
        return [(2, 1, 6, "", (next(answers), port))]

    monkeypatch.setattr(calling, "look_up", look_up)
    url = f"http://rebinding.example:{web.port}/"
    job = told.end_job(url)
    told.run(private=())
    assert looked_up == ["rebinding.example"]
    assert web.requests == []
    assert "not a public address" in told.state(job)[url]["failure"]


def test_one_owner_whose_receivers_hang_does_not_keep_others_waiting(told: Told, web: Receiver) -> None:
    """Of one owner only so many jobs are called for at once; the others come a little later."""
    release = threading.Event()
    web.answer = lambda request: 200 if "quick" in request.path or release.wait(60) else 500
    slow = [told.end_job(f"{web.url}/slow", owner="slow") for _ in range(OF_ONE_OWNER + 6)]
    quick = told.end_job(f"{web.url}/quick", owner="quick")

    async def run() -> None:
        async with Redis.from_url(told.server.url, decode_responses=True) as redis:
            deliveries = Deliveries(redis, Targets(secret=SECRET), Caller(_networks()))
            try:
                await deliveries.step(told.machine.fence)
                deadline = time.monotonic() + 60
                while quick in told.waiting():
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.02)
                assert len(told.waiting()) == len(slow)
            finally:
                release.set()
                await deliveries.close()

    asyncio.run(run())
    assert sum(request.path == "/slow" for request in web.requests) == OF_ONE_OWNER


def test_a_job_that_is_deleted_is_forgotten_with_its_webhooks(told: Told) -> None:
    job = told.end_job("https://nobody.example/")
    told.machine.call("delete", job)
    assert told.waiting() == []
    assert not told.machine.redis.exists(keys.webhooks(job))


def test_without_a_secret_nobody_is_told_and_nothing_waits(told: Told, web: Receiver) -> None:
    told.end_job(web.url)

    async def run() -> None:
        async with Redis.from_url(told.server.url, decode_responses=True) as redis:
            deliveries = Deliveries(redis, Targets(secret=None), Caller(_networks()))
            await deliveries.step(told.machine.fence)
            await asyncio.gather(*deliveries._running.values())

    asyncio.run(run())
    assert (web.requests, told.waiting()) == ([], [])


@pytest.mark.slow
def test_through_the_service_a_crash_between_the_end_and_the_call_loses_nothing(tmp_path: Path, web: Receiver) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{new_secret()}\n")
    with api_stack(
        tmp_path / "stack", WEBHOOK_SECRET_FILE=str(secret), WEBHOOK_PRIVATE="127.0.0.0/8", LOG_FORMAT="json"
    ) as stack:
        node = ScriptedNode(stack.server)
        with stack.client() as client:
            job = client.submit(*stack.paths, webhooks=web.url)
            attempt = node.start(job.id)
            # The service is gone when the job ends.
            stack.process.kill()
            node.fail(job.id, attempt, Reason.CRASHED, "it has crashed", ["a line"])
            stack.process.start()
            [request] = until(lambda: list(web.requests), what="the webhook")
            payload: Any = Webhook(client.webhook_secret()).verify(request.body, request.headers)
            assert payload["type"] == "job.failed"
            assert payload["data"] == json.loads(job.status().model_dump_json())
        node.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl, which makes the certificates")
def test_over_https_the_certificate_must_be_that_of_the_name_that_was_asked_for(
    told: Told, web: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to an address, and still the name is what the certificate is compared with."""
    certificates = Certificates(tmp_path / "certificates")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["ca.pem"]))
    looked_up = calling.look_up

    def look_up(host: str, port: int) -> list[Any]:
        return looked_up("127.0.0.1" if host == "other.example" else host, port)

    monkeypatch.setattr(calling, "look_up", look_up)
    with receiver(tls=(certificates["server.pem"], certificates["server.key"])) as secure:
        right, wrong = (f"https://{name}:{secure.port}/" for name in ("127.0.0.1", "other.example"))
        job = told.end_job(right, wrong)
        told.run()
        assert len(secure.requests) == 1
    state = told.state(job)
    assert state[right]["went"] == "delivered"
    assert "certificate" in state[wrong]["failure"].lower()
