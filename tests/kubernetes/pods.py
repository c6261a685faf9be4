"""A pod of the stand-in: its container `node` as a process of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ladle_contracts.processes import end_with_parent
from tests.cluster.hosts import Host

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
IMAGE = ("PATH", "HOME", "PYTHONPATH", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")
"""What the image brings. Nothing else of this process is seen in a pod."""


@dataclass
class Pod:
    metadata: Json
    spec: Json
    owner: str
    log: Path
    host: Host | None = None
    phase: str = "Pending"
    waiting: Json | None = None
    unscheduled: str = ""
    disruption: str = ""
    is_ending: bool = False
    code: int | None = None
    process: subprocess.Popen[bytes] | None = None
    kill_at: float = 0.0

    @property
    def name(self) -> str:
        return str(self.metadata["name"])

    @property
    def container(self) -> Json:
        found: Json = next(each for each in self.spec["containers"] if each["name"] == "node")
        return found

    @property
    def has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def start(self) -> None:
        command = self.container["command"]
        assert command[0] == "python", command
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._placed([sys.executable, *command[1:]]),
                env=self._environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd="/",
                preexec_fn=end_with_parent(signal.SIGKILL),
            )
        self.phase = "Running"

    def end(self) -> None:
        """As Kubernetes deletes it: SIGTERM, and SIGKILL after its grace."""
        if self.is_ending:
            return
        self.is_ending = True
        self.kill_at = time.monotonic() + self.spec["terminationGracePeriodSeconds"]
        self.signal(signal.SIGTERM)

    def take_away(self, reason: str) -> None:
        """As a node that is lost, drained or needed for another pod."""
        self.disruption = reason
        self.signal(signal.SIGTERM if reason == "EvictionByEvictionAPI" else signal.SIGKILL)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """To the first process of the container."""
        if self.process is None or self.process.poll() is not None:
            return
        inner = [psutil.Process(self.process.pid)]
        while self.host is not None and inner[-1].name() in ("nsenter", "unshare", "sh") and inner[-1].children():
            inner.append(inner[-1].children()[0])
        inner[-1].send_signal(number)

    def look(self) -> None:
        if self.process is None or self.phase != "Running":
            return
        if self.is_ending and time.monotonic() > self.kill_at:
            self.kill()
        code = self.process.poll()
        if code is not None:
            self.code = code if code >= 0 else 128 - code
            self.phase = "Succeeded" if self.code == 0 else "Failed"

    def manifest(self) -> Json:
        conditions = [{"type": "PodScheduled", "status": "False" if self.unscheduled else "True"}]
        if self.unscheduled:
            conditions[0] |= {"reason": "Unschedulable", "message": self.unscheduled}
        if self.disruption:
            conditions.append({"type": "DisruptionTarget", "status": "True", "reason": self.disruption})
        status = {"phase": self.phase, "conditions": conditions, "containerStatuses": [self._container_status()]}
        node = {"nodeName": self.host.name if self.host else "node-1"} if self.phase != "Pending" else {}
        return {"metadata": self.metadata, "spec": {**self.spec, **node}, "status": status}

    def _container_status(self) -> Json:
        if self.code is not None:
            words = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            reason = "Error" if self.code else "Completed"
            state = {"terminated": {"exitCode": self.code, "reason": reason, "message": words}}
        elif self.phase == "Running":
            state = {"running": {}}
        else:
            state = {"waiting": self.waiting or {"reason": "ContainerCreating"}}
        return {"name": "node", "image": self.container["image"], "state": state}

    def _environment(self) -> dict[str, str]:
        address = self.host.address if self.host else "127.0.0.1"
        fields = {f"metadata.annotations['{key}']": value for key, value in self.metadata["annotations"].items()}
        fields["status.podIP"] = address
        made = {name: os.environ[name] for name in IMAGE if name in os.environ}
        made["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), made.get("PYTHONPATH", "")]))
        for each in self.container.get("env", []):
            made[each["name"]] = (
                each["value"] if "value" in each else fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
            )
        return made

    def _placed(self, command: list[str]) -> list[str]:
        """On its host, with processes of its own and its name as the host's. Without hosts, beside this process."""
        if self.host is None:
            return command
        own = ("unshare", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
        script = ("sh", "-c", 'hostname "$0" && exec "$@"', self.name)
        return ["nsenter", f"--net=/run/netns/{self.host.namespace}", *own, *script, *command]
