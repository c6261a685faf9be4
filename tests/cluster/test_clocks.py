"""The clock of one worker is an hour ahead, and that of the API an hour behind. That of Redis counts."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ladle import Unauthorized
from ladle_contracts.tokens import StoredToken, hash_token, make_token
from tests.cluster.network import DATA, HEAD, LEASE_S, Layout, Network, needs_hosts
from tests.integration.gang_jobs import ranks_of
from tests.integration.gated_rank import CLOCK_VARIABLE
from tests.polling import until

pytestmark = [needs_hosts, pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler, `cc`")]

AHEAD, BEHIND = timedelta(hours=1), timedelta(hours=-1)
NODE = "node-1"
MINUTES = timedelta(minutes=10)
LIBRARY = "wall_clock.so"


def clock(offset: timedelta) -> dict[str, str]:
    """The variables of a process whose clock is wrong. Files have the times that their disk gives them."""
    return {"LD_PRELOAD": str(DATA / LIBRARY), CLOCK_VARIABLE: f"{offset.total_seconds():.0f}"}


@pytest.fixture(scope="module", autouse=True)
def clocks(the_network: Network) -> Iterator[None]:
    """The cluster with wrong clocks: that of the node also in its ranks, which inherit no variables."""
    # With right clocks.
    the_network.undisturbed(Layout(3))
    of_ranks = the_network.results / f"gates/{NODE}.clock"
    # Where ranks may read.
    library = the_network.folder / "data" / LIBRARY
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("wall_clock.c")], check=True)
    of_ranks.write_text(json.dumps(clock(AHEAD)))
    the_network.services[HEAD].stop()
    the_network.workers[NODE].stop()
    the_network.start_service(HEAD, **clock(BEHIND))
    the_network.start_worker(NODE, **clock(AHEAD))
    yield
    of_ranks.unlink()
    the_network.services[HEAD].stop()
    the_network.workers[NODE].stop()
    the_network.start_service(HEAD)
    the_network.start_worker(NODE)


def test_a_job_between_wrong_clocks_runs_once_and_its_times_are_those_of_redis(network: Network) -> None:
    began = datetime.now(UTC) - timedelta(seconds=1)
    job = network.submit(Layout(3), hold="train-17")
    job.wait_at("train-17")
    assert_clocks_are_wrong(network)
    job.let_pass("train-17")
    ended = job.finish()
    assert (ended.attempt, ended.failures) == (1, 0), ended
    job.assert_one_whole_result(ended)
    times = [event.time for event in job.events()]
    assert times == sorted(times)
    assert ended.started_at is not None
    assert ended.finished_at is not None
    known = [began, ended.created_at, ended.started_at, ended.finished_at, datetime.now(UTC)]
    assert known == sorted(known)
    times += [datetime.fromtimestamp(path.stat().st_mtime, UTC) for path in job.result.iterdir()]
    assert all(known[0] <= each <= known[-1] for each in times)


def assert_clocks_are_wrong(network: Network) -> None:
    """So that the test does not pass without them."""
    for process in (network.services[HEAD], network.workers[NODE]):
        assert LIBRARY in Path(f"/proc/{process.pid}/maps").read_text()
    ranks = [Path(f"/proc/{each.pid}/maps").read_text() for each in ranks_of(network.workers[NODE])]
    assert any(LIBRARY in maps for maps in ranks)


@pytest.mark.parametrize("adopted", [False, True], ids=["trains anew", "adopts the result"])
def test_a_node_with_a_wrong_clock_loses_its_job_after_the_lease_and_another_one_finishes_it(
    adopted: bool, network: Network
) -> None:
    point = "{name}.end" if adopted else "train-17"
    job = network.submit(Layout(3), hold=point)
    job.wait_at(point)
    first = job.record().nodes[0]
    frozen_at = time.monotonic()
    network.freeze(network.workers[first])
    job.let_pass(point)
    job.wait_for(lambda record: record.attempt > 1 or record.state == "queued")
    # A renewal may have been a moment ago.
    assert time.monotonic() - frozen_at > LEASE_S - 2
    network.thaw()
    ended = job.finish()
    assert ended.failures == 0, ended
    job.assert_one_whole_result(ended)
    made_by = json.loads((job.result / "report.json").read_text())["provenance"]["attempt"]
    assert made_by == ("1" if adopted else str(ended.attempt))


def test_the_clock_of_the_api_says_whether_a_token_has_expired(network: Network) -> None:
    api_now = (datetime.now(UTC) + BEHIND).replace(microsecond=0)
    path = network.folder / "etc/tokens"
    before = path.read_text()

    def answer(expires: datetime) -> str:
        token = make_token()
        path.write_text(before + StoredToken(name="ann", digest=hash_token(token), expires=expires).line() + "\n")
        # The service reads the file now and then.
        return until(lambda: answer_to(token, network), what="the token to be known")

    try:
        assert answer(api_now + MINUTES) == "allowed"
        assert answer(api_now - MINUTES) == "expired"
    finally:
        path.write_text(before)


def answer_to(token: str, network: Network) -> str:
    """Empty for a token that is not known."""
    try:
        network.ask(lambda client: client.nodes(), token=token)
    except Unauthorized as error:
        return "expired" if "has expired" in str(error) else ""
    return "allowed"
