"""Two API processes, on two hosts, each with a scheduler: one is frozen, the other killed, while jobs run and wait."""

from __future__ import annotations

from collections import Counter

from tests.cluster.network import HEAD, USER, Layout, Network, needs_hosts
from tests.polling import until

pytestmark = needs_hosts


def test_one_scheduler_is_frozen_and_the_other_killed_and_every_job_runs_once(network: Network) -> None:
    network.start_service(USER)
    try:
        held = network.submit(Layout(2), hold="train-17")
        held.wait_at("train-17")
        jobs = [held, *(network.submit(Layout(1), at=at) for at in (HEAD, USER, USER))]
        # The only one there was until now is elected.
        first = network.fence()
        network.freeze(network.services[HEAD])
        until(lambda: network.fence() > first, what="the second scheduler to be elected")
        jobs += [network.submit(Layout(1), at=USER), network.submit(Layout(2), at=USER)]
        jobs[1].finish(at=USER)
        network.thaw()
        network.services[USER].kill()
        until(lambda: network.fence() > first + 1, what="the first scheduler to be elected again")
        held.let_pass("train-17")
        for job in jobs:
            ended = job.finish()
            assert (ended.attempt, ended.failures) == (1, 0), ended
            job.assert_one_whole_result(ended)
            assert Counter(job.told()) == dict.fromkeys(
                ["queued", "scheduled", "running", "finalizing", "succeeded"], 1
            )
    finally:
        network.services.pop(USER).kill()
