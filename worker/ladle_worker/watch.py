"""Holds an attempt's lease while something of it runs, relays what is new, and says when it must end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from redis.exceptions import RedisError

from ladle_contracts import EventBody, Reason
from ladle_worker.claim import Claim, Ended
from ladle_worker.clock import now
from ladle_worker.commit import Lost
from ladle_worker.disk_faults import DiskFault, naming_disk_faults
from ladle_worker.far_commit import share_of_lease
from ladle_worker.far_helper import FarHelper
from ladle_worker.far_output import ResultsHelper
from ladle_worker.inputs_look import LookAtInputs
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.launch.launcher import Launcher, Status
from ladle_worker.relay import Relay, log_tail
from ladle_worker.settings import Settings
from ladle_worker.stall import StallWatch
from ladle_worker.state_copy import StateCopy
from ladle_worker.time_limit import TimeLimit
from ladle_worker.vetted import Vetter

logger = logging.getLogger(__name__)

DISK_S = 2.0
"""How often a node of several sees whether its disk still takes files."""
HANDS_BACK = "The node hands its jobs back, because it shuts down or is drained."
STOPPED = {"cancel", "release", "lost"}
"""What Redis answers where an attempt must end."""
Helper = FarHelper | ResultsHelper | LookAtInputs | Vetter
Answer = TypeVar("Answer")


class Watch:
    """One attempt's."""

    def __init__(self, settings: Settings, claim: Claim, folder: AttemptFolder, state_copy: StateCopy) -> None:
        self._settings = settings
        self._claim = claim
        self._folder = folder
        self._state_copy = state_copy
        self._relay = Relay(folder, claim)
        self._limit = TimeLimit(claim.spec.resources.timeout_s, claim.ran_s)
        self._stall = StallWatch(folder, settings.stall_s)
        self._renewed_at = 0.0
        self._disk_seen_at = 0.0
        self.looks_at_disk = False
        """Of several nodes most write little, and would not notice that their disk has gone."""

    def also_tell(self, news: Callable[[], Sequence[EventBody]]) -> None:
        """What `news` gives is told with the events of the ranks."""
        self._relay.news = news

    def await_answer(self, helper: Helper) -> Ended | None:
        """None once there is one. Raises `Lost` or `DiskFault`."""
        answer = self.follow(helper)
        return None if answer == "ok" else self.ended_by(answer)

    def follow(self, what: Launcher | Helper) -> str:
        """Relays until it is over (`ok`) or has to be ended; then `ended_by` takes the answer. Ranks continue while
        Redis cannot be reached. Raises `DiskFault`."""
        self._stall = StallWatch(self._folder, self._settings.stall_s)
        looked_at = time.monotonic()
        while True:
            status = _status_of(what)
            answer = self._renew_and_relay(what, status)
            if answer in STOPPED or (answer == "ok" and status.is_over):
                return answer
            if status.waits_for:
                # Nothing moves until the ranks run, and no time is used up.
                self._stall = StallWatch(self._folder, self._settings.stall_s)
                self._limit.put_off(time.monotonic() - looked_at)
            elif not status.is_over and self._stall.stalled(self._relay.stage):
                return "stalled"
            # A result that is being uploaded is complete.
            if not status.is_over and self.out_of_time() and not isinstance(what, ResultsHelper):
                return "timed-out"
            looked_at = time.monotonic()
            time.sleep(self._settings.poll_s)

    def _renew_and_relay(self, what: Launcher | Helper, status: Status) -> str:
        """What Redis says of the lease; empty where it does not answer, or has not taken all that is new."""
        self._renewed_at = time.monotonic()
        asked_at = now()
        answer = self.ask(lambda: self._claim.renew(status.waits_for))
        if answer is None or answer in STOPPED:
            return answer or ""
        if isinstance(what, ResultsHelper):
            what.may_write_until(share_of_lease(asked_at, self._settings.lease_s))
        return answer if self.ask(lambda: self._relay_and_look(to_end=status.is_over)) else ""

    def _relay_and_look(self, *, to_end: bool) -> bool:
        """Raises `RedisError` or `DiskFault`."""
        self._relay_news(to_end=to_end)
        if self.looks_at_disk and time.monotonic() - self._disk_seen_at >= DISK_S:
            self._disk_seen_at = time.monotonic()
            with naming_disk_faults("write the job's files"):
                self._folder.try_writing()
        return True

    def _relay_news(self, *, to_end: bool) -> None:
        """All that is new. Only the node of rank 0 has something to tell. Raises `RedisError` or `DiskFault`."""
        if self._claim.speaks:
            while self._relay.send(to_end=to_end):
                continue
            self._state_copy.send_if_due()

    def ask(self, question: Callable[[], Answer]) -> Answer | None:
        """None while Redis cannot be reached."""
        try:
            return question()
        except RedisError as error:
            logger.warning("Redis does not answer: %r", error)
            return None

    def await_end(self, at_most_s: float = math.inf) -> Ended | None:
        """Holds the lease while another node has the word. Raises `Lost` once that one has told how the attempt ended.

        None after `at_most_s` without a word.
        """
        until = time.monotonic() + at_most_s
        while time.monotonic() < until:
            answer = self.ask(self._claim.renew) or ""
            if answer in STOPPED:
                return self.ended_by(answer)
            time.sleep(self._settings.poll_s)
        return None

    def count_end(self, more: Mapping[str, float]) -> None:
        """For the numbers of the service, which may miss one."""
        if self._claim.speaks:
            with suppress(RedisError, DiskFault):
                self._relay.count_end(more)

    def keep_lease(self) -> None:
        """While what hangs is being ended, which takes its time. Whether the attempt is still ours is asked later."""
        if time.monotonic() - self._renewed_at >= self._settings.poll_s:
            self._renewed_at = time.monotonic()
            with suppress(RedisError):
                self._claim.renew()

    def out_of_time(self) -> bool:
        """Only the first node says so, and all others end with it."""
        return self._claim.speaks and self._limit.is_over()

    def ended_by(self, answer: str) -> Ended:
        """How the attempt ends by an answer that is not `ok`. Raises `Lost`."""
        if answer == "lost":
            raise Lost
        if answer == "release":
            return Ended(outcome="released", reason=Reason.NODE_LOST, message=HANDS_BACK)
        if answer == "cancel":
            return Ended(outcome="failed", reason=Reason.CANCELLED)
        return self._timed_out() if answer == "timed-out" else self._stalled()

    def _timed_out(self) -> Ended:
        self._relay_the_rest()
        return replace(self._limit.ended(self._relay.stage), log_tail=log_tail(self._folder))

    def _stalled(self) -> Ended:
        stage, limit_s = self._relay.stage, self._stall.limit_s(self._relay.stage)
        self._relay_the_rest()
        return Ended(
            outcome="crashed",
            reason=Reason.STALLED,
            message=f"A job must make progress, but in stage `{stage or 'start'}` nothing moved for {limit_s:g} s. A "
            "disk may hang, or a task. The end of the log says where each rank was. The limit is `LADLE_STALL_S`.",
            log_tail=log_tail(self._folder),
        )

    def _relay_the_rest(self) -> None:
        """Where the ranks stood."""
        with suppress(RedisError, DiskFault):
            self._relay_news(to_end=True)


def _status_of(what: Launcher | Helper) -> Status:
    if isinstance(what, Helper):
        code = what.poll()
        return Status(is_over=code is not None, code=code)
    return what.status()
