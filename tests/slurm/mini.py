"""A real Slurm for tests: a controller and two machines, each with an address of its own. Needs root.

The machines are network namespaces with processes of their own (`tests/cluster/hosts.py`). They share the disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.cluster import hosts as cluster_hosts
from tests.cluster.hosts import Host, hosts
from tests.polling import until
from tests.servers import Process, running

TEMPLATE = Path(__file__).with_name("slurm.conf")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "munged")
INSTALL = "slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge"
NODES = ("n1", "n2")


def why_not() -> str:
    """Why there can be no Slurm here. Empty if there can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{missing[0]} is not installed (apt-get install --no-install-recommends {INSTALL})"
    return cluster_hosts.why_not()


@dataclass
class MiniSlurm:
    folder: Path
    ctl: Host
    machines: dict[str, Host]
    controller: Process
    daemons: dict[str, Process] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The same command, on the controller's machine."""
        return at(self.ctl, self.folder, arguments)

    def ask(self, *arguments: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(
            self.command(arguments), env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def jobs(self, *states: str) -> dict[str, str]:
        """Names of jobs by id, of those in these states."""
        told = self.ask("squeue", "--noheader", f"--states={','.join(states) or 'PD,R,CF,CG'}", "--format=%A|%j")
        return dict(line.strip().split("|", 1) for line in told.splitlines())

    def field_of(self, job: str, name: str) -> str:
        told = self.ask("scontrol", "--oneliner", "show", "job", job)
        return next(part.partition("=")[2] for part in told.split() if part.startswith(f"{name}="))

    def node_states(self) -> dict[str, str]:
        told = self.ask("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N|%T")
        return dict(line.strip().split("|", 1) for line in told.splitlines())

    def kill(self, name: str) -> None:
        """As a machine that loses its power: all its processes are gone."""
        process = self.daemons[name].process
        assert process is not None
        process.kill()
        process.wait()

    def mend(self) -> None:
        """All machines are up, connected and free."""
        for host in self.machines.values():
            host.heal()
        for daemon in (self.controller, *self.daemons.values()):
            if daemon.process is None or daemon.process.poll() is not None:
                daemon.start()
        until(lambda: "UP" in self._ping(), what="the controller")
        self.ask("scancel", "--quiet", "--user=root")
        until(self._is_idle, what="the machines to be free")

    def _ping(self) -> str:
        command = self.command(["scontrol", "ping"])
        return subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True).stdout

    def _is_idle(self) -> bool:
        states = self.node_states()
        for name, state in states.items():
            if state.startswith(("down", "drain")) and not state.endswith("*"):
                self.ask("scontrol", "update", f"nodename={name}", "state=resume")
        return set(states.values()) == {"idle"}


def at(host: Host, folder: Path, arguments: Sequence[str], *, own_processes: bool = False) -> list[str]:
    """The command on a host whose names are known there."""
    alone = ("--pid", "--fork", "--mount-proc", "--kill-child") if own_processes else ()
    script = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'
    return [
        *("nsenter", f"--net=/run/netns/{host.namespace}", "unshare", "--uts", "--mount", *alone),
        *("sh", "-c", script, host.name, str(folder / "hosts"), *arguments),
    ]


@contextmanager
def mini_slurm() -> Iterator[MiniSlurm]:
    with ExitStack() as stack:
        # The name of a socket may not be long.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        ctl, *machines = stack.enter_context(hosts("ctl", *NODES)).values()
        for name in ("state", "spool", "log"):
            (folder / name).mkdir()
        known = [f"{host.address} {host.name}" for host in (ctl, *machines)]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *known, ""]))
        text = TEMPLATE.read_text().replace("@DIR@", str(folder)).replace("@CTL@", ctl.address)
        for host in machines:
            text = text.replace(f"@{host.name.upper()}@", host.address)
        (folder / "slurm.conf").write_text(text)
        stack.enter_context(running(_munged(folder)))
        until(lambda: (folder / "munge.socket").exists(), what="munged")
        made = MiniSlurm(folder, ctl, {host.name: host for host in machines}, _slurmctld(folder, ctl))
        stack.enter_context(running(made.controller))
        for host in machines:
            made.daemons[host.name] = _slurmd(folder, host)
            stack.enter_context(running(made.daemons[host.name]))
        made.mend()
        yield made


def _munged(folder: Path) -> Process:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    # munged wants that others can reach its socket.
    folder.chmod(0o755)
    names = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munged.pid"}
    more = {"log-file": folder / "munged.log", "seed-file": folder / "munged.seed"}
    flags = [f"--{name}={path}" for name, path in {**names, **more}.items()]
    return Process(["munged", "--foreground", *flags], {}, folder / "munged.out")


def _slurmctld(folder: Path, host: Host) -> Process:
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    return Process(at(host, folder, ["slurmctld", "-D"]), environment, folder / "slurmctld.out")


def _slurmd(folder: Path, host: Host) -> Process:
    (folder / "spool" / host.name).mkdir()
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    command = at(host, folder, ["slurmd", "-D", "-N", host.name], own_processes=True)
    return Process(command, environment, folder / f"slurmd.{host.name}.out")


def processes_with(word: str) -> list[psutil.Process]:
    """All on any machine with this in their command."""
    found = []
    for process in psutil.process_iter():
        try:
            if word in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
