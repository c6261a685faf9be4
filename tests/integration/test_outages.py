"""Redis answers, but not with what was asked for: the API says so, the worker waits, and jobs go on afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ladle import Client, Unavailable
from ladle._job import Job
from ladle_contracts import JobState
from tests.builders import make_checkpoints, make_val_set
from tests.integration.api_stack import Stack, api_stack
from tests.integration.life import Gate
from tests.integration.redis_faults import FAULTS, cannot_save
from tests.polling import DEADLINE_S, SOON_S, until
from tests.servers import Process, gated_worker, running

pytestmark = pytest.mark.slow

FROM_A_WRITE = {"MASTERDOWN": "READONLY"}
"""What a write is told, where a read is told something else."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("outages")
    # As the user without a name, whose password and rights the faults change.
    with api_stack(folder, REDIS_URL=f"unix://{folder / 'redis.sock'}") as made:
        make_checkpoints(made.folder / "data" / "checkpoints")
        make_val_set(made.folder / "data" / "val.npz")
        yield made


@pytest.fixture(scope="module")
def worker(stack: Stack) -> Iterator[Process]:
    """One for all faults: none of them may end it."""
    data = stack.folder / "data"
    with running(gated_worker(stack.folder, stack.server, data, REDIS_URL=stack.server.url)) as process:
        with stack.client() as client:
            until(client.methods, what="the worker to register")
        yield process
        assert process.process is not None
        assert process.process.poll() is None, process.text()


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    """It tries nothing twice."""
    with stack.client(patience=0.0, timeout=60.0) as made:
        yield made


def submit(stack: Stack, client: Client, **options: str) -> Job:
    data = stack.folder / "data"
    return client.submit(data / "checkpoints", data / "val.npz", method="uniform", task="small-cnn", **options)  # type: ignore[arg-type]


def refusal(stack: Stack, client: Client) -> str:
    """What the API says to a submit; empty if it takes the job."""
    try:
        submit(stack, client)
    except Unavailable as error:
        return str(error)
    return ""


@pytest.mark.parametrize("words", FAULTS)
def test_what_redis_refuses_is_said_and_passes(stack: Stack, worker: Process, client: Client, words: str) -> None:
    written = FROM_A_WRITE.get(words, words)
    said_before = _said(worker, words, written)
    with FAULTS[words](stack.server):
        # Connections that were closed are noticed only when they are used: then Redis "cannot be reached".
        until(lambda: words in refusal(stack, client), timeout_s=SOON_S, what="a submit to be refused")
        until(lambda: written in readiness(client), timeout_s=SOON_S, what="/readyz to tell it")
        until(lambda: _said(worker, words, written) > said_before, what="the worker to tell it")
    until(lambda: not readiness(client), what="the service to be ready again")
    job = submit(stack, client)
    assert client.job(job.id).cancel()
    assert "Unrecoverable" not in worker.text()


def _said(worker: Process, *words: str) -> int:
    return sum(worker.text().count(each) for each in set(words))


def readiness(client: Client) -> str:
    """The problem of `/readyz`; empty if it is ready."""
    answer = client._transport._http.get("/readyz")  # no call of the client's own asks for it
    return "" if answer.status_code == 200 else answer.json()["detail"] + answer.headers["retry-after"]


def test_a_job_that_ends_while_redis_refuses_writes_waits_and_succeeds(
    stack: Stack, worker: Process, client: Client
) -> None:
    gate = Gate(stack.folder / "results" / "gates")
    (gate.folder / "outcome.hold").touch()
    patient = stack.client()
    job = submit(stack, patient)
    until(lambda: gate.reached("outcome"), what="the ranks to have ended")
    for words, fault in FAULTS.items():
        with fault(stack.server):
            until(lambda words=words: words in refusal(stack, client), what=words)  # type: ignore[misc]
    with cannot_save(stack.server):
        said = worker.text().count("cannot save its data")
        gate.open("outcome")
        until(lambda: worker.text().count("cannot save its data") > said, what="the worker to wait")
    record = job.wait(timeout=DEADLINE_S)
    assert (record.state, record.attempt, record.failures) == (JobState.SUCCEEDED, 1, 0), record
    patient.close()
