"""What must be true of the running stack, seen by its operator; the user's side is in `outside.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

from stack import PORT, Stack

Say = Callable[[str], None]
SERVICES = ("redis", "api", "worker")
WORKER_STOP_S = 40.0
"""How long a busy worker may take to stop; `stop_grace_period` is 60 s, and past it Docker kills."""


def run_all(stack: Stack, say: Say) -> None:
    """Every check; an AssertionError says which one failed."""
    containers_are_confined(stack)
    say("ok: no root, no capability, read-only root file systems, read-only data")
    only_the_api_is_published(stack)
    say("ok: one published port, the API's, on loopback")
    redis_knows_its_users(stack)
    say("ok: Redis speaks TLS only, and its users may do what Ladle does; no password is in an environment")
    redis_keeps_what_it_has(stack)
    say("ok: Redis writes an append-only file and evicts nothing")
    api_has_no_torch(stack)
    say("ok: the API's image has no torch")
    images_say_what_they_consist_of(stack)
    say("ok: both images hold a list of what they consist of")
    a_job_makes_a_model(stack, say)
    a_stopped_worker_hands_its_job_back(stack, say)


def containers_are_confined(stack: Stack) -> None:
    """Processes are not root's and cannot write outside their volumes."""
    for service in SERVICES:
        uid = stack.ask("exec", "-T", service, "id", "-u")
        assert uid != "0", f"the {service} container runs as root"
        status = stack.ask("exec", "-T", service, "cat", "/proc/self/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert int(fields["CapBnd"], 16) == 0, f"the {service} container may gain capabilities: {fields['CapBnd']}"
        assert fields["NoNewPrivs"].strip() == "1", f"the {service} container may gain privileges"
        assert stack.refuses(service, "touch", "/usr/x"), f"the {service} container's root file system can be written"
    for service in ("api", "worker"):
        assert stack.refuses(service, "touch", "/data/x"), f"/data can be written in the {service} container"
        assert stack.refuses(service, "touch", "/opt/ladle/x"), f"the {service} container's program can be written"
        assert not stack.refuses(service, "touch", "/results/.x"), f"/results cannot be written in {service}"


def only_the_api_is_published(stack: Stack) -> None:
    """Redis and the worker have no port outside."""
    published = {}
    for service in SERVICES:
        container = stack.ask("ps", "--quiet", service)
        ports = json.loads(stack.engine.ask("inspect", "--format", "{{json .NetworkSettings.Ports}}", container))
        published[service] = [binding for bindings in (ports or {}).values() for binding in bindings or []]
    wanted = {"redis": [], "api": [{"HostIp": "127.0.0.1", "HostPort": str(PORT)}], "worker": []}
    assert published == wanted, f"published ports must be {wanted}, but are {published}"


ASK_REDIS = """
import sys
from redis import Redis
from ladle_worker.settings import Settings
url = Settings().redis_url.get_secret_value()
for old, new in zip(sys.argv[2::2], sys.argv[3::2]):
    assert old in url
    url = url.replace(old, new)
print(Redis.from_url(url, socket_timeout=5).execute_command(*sys.argv[1].split()))
"""
"""Run in the worker's container: a command, and what is changed in the address."""


def redis_knows_its_users(stack: Stack) -> None:
    """Nobody is let in without a name, a password and TLS, and nobody may do more than he needs."""

    def refused(command: str, *changes: str) -> bool:
        return stack.refuses("worker", "python", "-c", ASK_REDIS, command, *changes)

    assert not refused("SMEMBERS ladle:nodes"), "the worker cannot use Redis"
    for command in ("CONFIG GET dir", "KEYS *", "FLUSHALL", "GET ladle:scheduler:lock", "ACL LIST"):
        assert refused(command), f"Redis lets the worker use `{command}`"
    assert refused("PING", "worker:", "service:"), "the worker's password opens another user"
    assert refused("PING", "/run/keys/ca.pem", "/etc/ssl/certs/ca-certificates.crt"), "any authority is believed"
    assert refused("PING", "rediss:", "redis:"), "Redis talks without TLS"
    answer = stack.ask("exec", "-T", "redis", "redis-cli", "-s", "/tmp/redis.sock", "ping")  # noqa: S108  its own
    assert "NOAUTH" in answer, f"Redis answers without a password: {answer}"
    keys = stack.work / "docker" / "keys"
    secrets = [path.read_text() for path in keys.rglob("*-password")]
    assert len(secrets) == 3, secrets
    for service in SERVICES:
        told = stack.engine.ask("inspect", stack.ask("ps", "--quiet", service))
        assert not [secret for secret in secrets if secret in told], f"`docker inspect` of {service} shows a password"
        entries = stack.ask("exec", "-T", service, "ls", "/run/keys").split()
        assert ("operator-password" in entries) == (service == "redis"), f"/run/keys of {service} has {entries}"


def redis_keeps_what_it_has(stack: Stack) -> None:
    """The queue survives a restart, and is never thinned out."""
    for setting, wanted in (("appendonly", "yes"), ("maxmemory-policy", "noeviction")):
        answer = stack.redis("config", "get", setting).split()
        assert answer == [setting, wanted], f"Redis' {setting} must be {wanted}, but is {answer}"


def api_has_no_torch(stack: Stack) -> None:
    """It never imports it, and the image is small."""
    assert stack.refuses("api", "python", "-c", "import torch"), "the API's image has torch"
    assert not stack.refuses("worker", "python", "-c", "import torch"), "the worker's image has no torch"


def images_say_what_they_consist_of(stack: Stack) -> None:
    """A CycloneDX document names the packages that are installed."""
    for service, package in (("api", "fastapi"), ("worker", "torch")):
        parts = json.loads(stack.ask("exec", "-T", service, "cat", "/opt/ladle/sbom.cdx.json"))["components"]
        names = {part["name"] for part in parts}
        assert {"ladle", package} <= names, f"the SBOM of the {service} image lacks ladle or {package}: {names}"


def a_job_makes_a_model(stack: Stack, say: Say) -> None:
    """A user's job, from outside, and its result as it lies in the volume."""
    digits = stack.work / "data" / "digits"
    train = [sys.executable, str(stack.repo / "examples" / "digits" / "train.py"), str(digits)]
    subprocess.run(train, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    # The containers' user is another one, and safetensors makes files that only their owner can read.
    for path in digits.rglob("*.safetensors"):
        path.chmod(0o644)
    stack.outside("refused")
    say("ok: no token and a wrong token are refused")
    say("submitting a job through the Python client")
    stack.outside("run-job")
    stack.ask("cp", "worker:/results/from-outside", str(stack.work / "result"))
    stack.outside("check-result", str(stack.work / "result"), str(digits / "checkpoints"))
    say("ok: the job's model is what its coefficients say, and loads")


def a_stopped_worker_hands_its_job_back(stack: Stack, say: Say) -> None:
    """`docker compose stop` in the middle of a job: a clean end, and the job goes on with the next start."""
    say("stopping the worker in the middle of a job")
    stack.outside("start-long-job")
    began = time.monotonic()
    stack.ask("stop", "worker")
    took_s = time.monotonic() - began
    container = stack.ask("ps", "--all", "--quiet", "worker")
    exit_code = stack.engine.ask("inspect", "--format", "{{.State.ExitCode}}", container)
    assert exit_code == "0", f"the stopped worker must end with 0, but ended with {exit_code} after {took_s:.0f} s"
    assert took_s < WORKER_STOP_S, f"the worker took {took_s:.0f} s to stop"
    say(f"ok: the worker stopped by itself in {took_s:.1f} s; starting it again")
    stack.ask("start", "worker")
    stack.outside("finish-long-job")
    say("ok: the job that was interrupted went on and succeeded")
