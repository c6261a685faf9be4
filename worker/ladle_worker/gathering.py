"""Before the ranks of several nodes start: each node looks at itself and at the inputs, and meets the others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import RedisError

from ladle_contracts import Reason, Vetting, Warned
from ladle_contracts.far_urls import is_url
from ladle_contracts.roots import PathNotAllowed
from ladle_worker.claim import Claim, Ended
from ladle_worker.disk_faults import naming_disk_faults
from ladle_worker.gang import Gang, Place, check_inputs, gather, place_of
from ladle_worker.inputs_look import LookAtInputs
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.settings import Settings
from ladle_worker.vetted import Vetter, is_fresh, of_places, remarks
from ladle_worker.watch import STOPPED, Watch


@dataclass(frozen=True, kw_only=True)
class Gathering:
    """One node's part in it."""

    settings: Settings
    claim: Claim
    folder: AttemptFolder
    watch: Watch
    gpus: int
    ranks: int
    """How many ranks this node would run."""

    def gang(self, job: Mapping[str, Any]) -> Gang | Ended:
        """The nodes once all are ready, or how the attempt ended before. Raises `Lost`, `CannotMeet` or `DiskFault`."""
        vetting = self._last_vetting()
        vetter = None if is_fresh(vetting) else self._vetter(job)
        look = LookAtInputs(self.folder, job, self.claim.spec)
        try:
            answer = self.watch.follow(look)
            if answer == "ok" and vetter is not None:
                answer = self.watch.follow(vetter)
                if answer == "ok":
                    vetting = self._noted(vetter.answer())
        finally:
            for process in (look, vetter):
                if process is not None:
                    process.end(self.watch.keep_lease)
        if answer != "ok":
            return self.watch.ended_by(answer)
        return self._unfit(vetting) or self._meet(self._place(look.answer(), vetting))

    def tell_what_is_missing(self, error: PathNotAllowed) -> Ended:
        """Where this node does not see the inputs. Raises `CannotMeet`, which names this node, or `Lost`."""
        ended = self._meet(self._place({}, None, str(error)))
        assert isinstance(ended, Ended), "nodes that do not see the inputs cannot meet"
        return ended

    def _last_vetting(self) -> Vetting | None:
        with suppress(RedisError, ValueError):
            return self.claim.last_vetting()
        return None

    def _vetter(self, job: Mapping[str, Any]) -> Vetter:
        path = job["ckpt_dir"] if isinstance(job["ckpt_dir"], str) else job["ckpt_dir"][0]
        return Vetter(
            self.folder.path,
            gpus=self.gpus,
            ranks=self.ranks,
            roots=job["roots"],
            path=None if is_url(path) else path,
        )

    def _noted(self, vetting: Vetting) -> Vetting:
        with suppress(RedisError):
            self.claim.note_vetting(vetting)
        return vetting

    def _unfit(self, vetting: Vetting | None) -> Ended | None:
        """None if this node can run the job."""
        if vetting is None or vetting.problem is None:
            return None
        message = f"Node `{self.settings.node_id}` cannot run the job: {vetting.problem}"
        return Ended(outcome="node-failed", reason=Reason.NODE_UNFIT, message=message)

    def _place(self, seen: Mapping[str, Any], vetting: Vetting | None, refused: str = "") -> Place:
        """What this node tells the others. Raises `CannotMeet`."""
        found = vetting.model_dump(mode="json") if vetting is not None else {}
        return replace(place_of(self.settings, self.ranks, seen, refused), vetting=found)

    def _meet(self, place: Place) -> Gang | Ended:
        """Waits until all nodes of the attempt are ready. Raises `Lost` or `CannotMeet`."""
        told = place.to_json()
        waits_since = time.monotonic()
        while True:
            # Nobody can say that it is ready while Redis does not answer.
            answer, others = self.watch.ask(lambda: self.claim.meet(told)) or ("wait", ())
            if answer in STOPPED:
                return self.watch.ended_by(answer)
            if self.watch.out_of_time():
                return self.watch.ended_by("timed-out")
            if answer == "ok":
                return self._gang_of([Place.of_json(other) for other in others])
            if not others:
                waits_since = time.monotonic()
            elif time.monotonic() - waits_since > self.settings.ready_s:
                return self._late(others)
            time.sleep(self.settings.poll_s)

    def _gang_of(self, places: Sequence[Place]) -> Gang:
        """Raises `CannotMeet` where they do not fit together."""
        gang = gather(places, self.claim.node_rank)
        check_inputs(places, self.claim.spec)
        self._remark(places)
        return gang

    def _remark(self, places: Sequence[Place]) -> None:
        """Warns of nodes that are slower than the others. The events of rank 0 follow."""
        if self.claim.speaks:
            with naming_disk_faults("write the job's events"), self.folder.events.open("a") as events:
                for message in remarks(of_places({place.node: place.vetting for place in places})):
                    events.write(Warned(message=message).model_dump_json() + "\n")

    def _late(self, nodes: Sequence[str]) -> Ended:
        names = ", ".join(f"`{node}`" for node in nodes)
        return Ended(
            outcome="node-failed",
            reason=Reason.NODE_LOST,
            message=f"All nodes of a job must be ready within {self.settings.ready_s:g} s, but {names} "
            f"{'was' if len(nodes) == 1 else 'were'} not. `LADLE_READY_S` sets the limit.",
            nodes=nodes,
        )
