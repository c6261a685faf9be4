"""What is asked of Slurm by its own commands: about one job, about all jobs of Ladle, and to end some."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 60.0
AWAY = re.compile(
    r"[Uu]nable to contact|[Cc]onnection (refused|timed out|reset|failure)|[Ss]ocket timed out|No route to host"
    r"|[Cc]ommunication|Zero Bytes|standby mode|temporarily unable|[Mm]unge|authentication|SlurmDBD"
    r"|[Tt]ransport endpoint"
    r"|Resource temporarily unavailable|configuration source|Unable to resolve|Unexpected message received",
)
"""Words of Slurm's commands when it cannot be reached, is starting or is busy."""
FOR_NOW = re.compile(r"accounting/QOS policy|inactive or drain|not available now|down, drained or reserved|job limit")
"""Words of refusals that pass: too many jobs of the account, a partition or nodes that are out of use. Slurm says the
first also of a job that is too large for ever."""
NO_SUCH_JOB = "Invalid job id"
NAME = re.compile(r"ladle-(?P<owner>[0-9a-f]{8})-(?P<job>[A-Za-z0-9-]+)-(?P<attempt>\d+)")
FIELD = re.compile(r"(?:^| )([A-Za-z]+(?:/[A-Za-z]+)?)=")


class SlurmAway(Exception):
    """Slurm cannot be reached, or cannot answer now. It may a little later."""


class SlurmRefused(Exception):
    """Slurm has answered, and does not do it."""


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """As Slurm tells of it."""

    id: str
    name: str
    state: str
    reason: str = ""
    exit_code: int = 0
    signal: int = 0
    run_time_s: float = 0.0
    nodes: str = ""
    starts_at: str = ""
    """When Slurm expects it to start. Empty if it does not know."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What the name of a job of Slurm says: whose it is."""

    job_id: str
    number: int


def name_of(results_dir: Path, job_id: str, attempt: int) -> str:
    """It says which Ladle the job belongs to: all dispatchers of one share a folder of results."""
    return f"ladle-{owner_of(results_dir)}-{job_id}-{attempt}"


def owner_of(results_dir: Path) -> str:
    return hashlib.sha256(str(results_dir).encode()).hexdigest()[:8]


def attempt_of(name: str, results_dir: Path) -> Attempt | None:
    """None if it is no job of this Ladle."""
    found = NAME.fullmatch(name)
    if not found or found["owner"] != owner_of(results_dir):
        return None
    return Attempt(job_id=found["job"], number=int(found["attempt"]))


def ask(*command: str) -> str:
    """What a command of Slurm prints. Raises `SlurmAway` or `SlurmRefused`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise SlurmAway(f"`{command[0]}` did not answer for {TIMEOUT_S:g} s") from error
    except FileNotFoundError as error:
        raise SlurmRefused(f"the command `{command[0]}` must be on PATH, but is not") from error
    if done.returncode != 0:
        raise trouble(done.stderr or done.stdout or f"`{command[0]}` ended with status {done.returncode}")
    return done.stdout


def trouble(words: str) -> SlurmAway | SlurmRefused:
    """What the words of a command that failed mean."""
    short = shortened(words)
    return SlurmAway(short) if AWAY.search(words) else SlurmRefused(short)


def shortened(words: str) -> str:
    """The first line that says something, without the name of the command."""
    lines = [re.sub(r"^[a-z]+: (error|fatal): ", "", line.strip()) for line in words.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("Batch job submission failed") or len(lines) == 1]
    rest = [line.partition(": ")[2] for line in lines if line.startswith("Batch job submission failed: ")]
    return (rest or told or ["no reason was given"])[0].rstrip(".")[:300]


def look(job_id: str) -> SlurmJob | None:
    """None if Slurm does not know it any more, some minutes after its end. Raises `SlurmAway` or `SlurmRefused`."""
    try:
        told = ask("scontrol", "--oneliner", "show", "job", job_id)
    except SlurmRefused as error:
        if NO_SUCH_JOB in str(error):
            return remembered(job_id)
        raise
    return read_job(told)


def remembered(job_id: str) -> SlurmJob | None:
    """By the accounting, where there is one."""
    try:
        told = ask("sacct", "-X", "-n", "-P", "-j", job_id, "-o", "JobName,State,ExitCode,ElapsedRaw,NodeList")
    except SlurmRefused:
        return None
    lines = told.splitlines()
    if not lines or lines[0].count("|") < 4:
        return None
    name, state, exit_code, elapsed_s, nodes = lines[0].split("|")[:5]
    code, signal = _exit(exit_code)
    # `CANCELLED by 1000`
    state, _, by = state.partition(" ")
    return SlurmJob(
        id=job_id,
        name=name,
        state=state,
        reason=by,
        exit_code=code,
        signal=signal,
        run_time_s=float(elapsed_s or 0),
        nodes=nodes,
    )


def read_job(text: str) -> SlurmJob:
    """A line of `scontrol --oneliner show job`. Values may hold spaces, so that a field ends where the next begins."""
    marks = list(FIELD.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    fields: dict[str, str] = {}
    for mark, end in zip(marks, ends, strict=True):
        # Also the last ones hold `Name=`: commands and paths of whoever wrote the job.
        fields.setdefault(mark[1], text[mark.end() : end].strip())
    code, signal = _exit(fields.get("ExitCode", "0:0"))
    nodes, starts_at = fields.get("NodeList", ""), fields.get("StartTime", "")
    return SlurmJob(
        id=fields["JobId"],
        name=fields.get("JobName", ""),
        state=fields["JobState"],
        reason="" if fields.get("Reason") in (None, "None") else fields["Reason"],
        exit_code=code,
        signal=signal,
        run_time_s=seconds(fields.get("RunTime", "")),
        nodes="" if nodes == "(null)" else nodes,
        starts_at="" if starts_at in ("Unknown", "N/A") else starts_at,
    )


def longest_time(partition: str | None) -> str:
    """Of a partition, or of the default one, as Slurm writes it. Empty if there is none. Raises as `ask`."""
    told = ask("scontrol", "--oneliner", "show", "partition", *([partition] if partition else []))
    for line in told.splitlines():
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if partition or fields.get("Default") == "YES":
            longest = fields.get("MaxTime", "")
            return "" if longest == "UNLIMITED" else longest
    return ""


def jobs_of_ladle(results_dir: Path) -> list[tuple[str, Attempt]]:
    """The ids and attempts of all that wait or run, of any dispatcher of this Ladle. Raises as `ask`."""
    told = ask("squeue", "--me", "--noheader", "--states=PD,R,CF,S,ST,SO,RQ,RH,SI", "--format=%A|%j")
    pairs = [line.strip().partition("|") for line in told.splitlines()]
    found = [(job_id, attempt_of(name, results_dir)) for job_id, _, name in pairs]
    return [(job_id, attempt) for job_id, attempt in found if attempt is not None]


def cancel(job_ids: Sequence[str]) -> None:
    """Those that have ended are no error. Raises as `ask`."""
    if job_ids:
        ask("scancel", "--quiet", *job_ids)


def seconds(text: str) -> float:
    """`1-02:03:04` as seconds. 0 where it is no time."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if not found:
        return 0.0
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


def _exit(text: str) -> tuple[int, int]:
    """`1:9` as status and signal."""
    status, _, signal = text.partition(":")
    return (int(status), int(signal)) if status.isdigit() and signal.isdigit() else (0, 0)
