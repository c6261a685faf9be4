"""The same numbers again, to the last bit: from a second run, from another process, and from a run that was cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from measuring import table_lines

from gpu.jobs import Done, Job, make
from gpu.parts import Found, Setting, require
from gpu.ranks import NOT_RUN, start
from gpu.switches import Cut, cut_after, saving_always

JOBS = {
    "float32": Job(),
    "int8": Job(precision="int8"),
    "streamed": Job(precision="streamed"),
    "offload": Job(precision="offload"),
    "lbfgs": Job(method="twa", options={"optimiser": "lbfgs", "passes": 12, "rescale": False}),
    "psgd": Job(method="psgd", options={"steps": 40}),
    "random": Job(method="random", options={"steps": 20, "dimensions": 4}),
    "BatchNorm": Job(net="batch-norm", method="twa", tf32=True),
}
FEW_JOBS = ("float32", "int8", "psgd", "BatchNorm")
IN_A_PROCESS = ("float32", "BatchNorm")
"""Those that also run in a process of their own, which takes seconds to start."""


def _jobs(setting: Setting) -> dict[str, Job]:
    for net in ("perceptron", "batch-norm"):
        make(setting.folder / net, net)
    left_out = () if setting.on_gpu else ("offload",)
    names = FEW_JOBS if setting.few else JOBS
    return {name: JOBS[name] for name in names if name not in left_out}


def determinism(setting: Setting) -> Found:
    """Each job twice here, and some in another process: the same coefficients, losses and model."""
    jobs = _jobs(setting)
    first = {name: _run(setting, job, f"{name}-first") for name, job in jobs.items()}
    again = {name: _run(setting, job, f"{name}-again") for name, job in jobs.items()}
    process = setting.folder / "process"
    alone = {name: jobs[name] for name in IN_A_PROCESS}
    ended = start(process, setting.folder, alone, setting.device.type)
    other = {name: _done(process, job, name) for name, job in alone.items() if ended.jobs[name] == "ok"}
    different = {
        name: {"again": _differing(done, again[name])}
        | ({"another process": _differing(done, other[name])} if name in other else {})
        for name, done in first.items()
    }
    failed = [f"{name} in another process: {said}" for name, said in ended.jobs.items() if said != "ok"]
    found = _found(different, "run twice")
    found.lines += ended.said
    setting.keep(found)
    require(not failed, "; ".join(failed))
    _require_same(different)
    return found


def resume(setting: Setting) -> Found:
    """Each job is cut half way and taken up again, and some are killed with their process."""
    jobs = _jobs(setting)
    different: dict[str, dict[str, list[str]]] = {}
    with saving_always():
        whole = {name: _run(setting, job, f"{name}-whole") for name, job in jobs.items()}
        for name, job in jobs.items():
            state = setting.folder / "states" / name
            _cut(setting, job, f"{name}-cut", state, after=len(whole[name].curve) // 2)
            different[name] = {"cut": _taken_up(setting, job, f"{name}-resumed", state, whole[name])}
        killed = setting.folder / "killed"
        for name in IN_A_PROCESS[:1] if setting.few else IN_A_PROCESS:
            after = ("--cut-after", str(len(whole[name].curve) // 2))
            ended = start(killed, setting.folder, {name: jobs[name]}, setting.device.type, options=after)
            require(ended.jobs[name] == NOT_RUN, f"{name} was to be killed in its middle, but: {ended.jobs[name]}")
            state = killed / "states" / name
            different[name]["killed"] = _taken_up(setting, jobs[name], f"{name}-after-killed", state, whole[name])
    found = _found(different, "cut and taken up again")
    setting.keep(found)
    _require_same(different)
    return found


def _run(setting: Setting, job: Job, name: str, state: Path | None = None) -> Done:
    return job.run(setting.folder / job.net, setting.device, setting.folder / name, state=state)


def _done(folder: Path, job: Job, name: str) -> Done:
    return Done(folder=folder / "outputs" / name, method=job.method, losses_taken=0, warnings=())


def _cut(setting: Setting, job: Job, name: str, state: Path, after: int) -> None:
    def cut() -> NoReturn:
        raise Cut

    try:
        with cut_after(after, cut):
            _run(setting, job, name, state)
    except Cut:
        return
    raise AssertionError(f"{name} must be cut after {after} steps, but ran to its end")


def _taken_up(setting: Setting, job: Job, name: str, state: Path, whole: Done) -> list[str]:
    """What differs from the whole run; also where the job began anew."""
    resumed = _run(setting, job, name, state)
    began_anew = ["it began anew"] if resumed.losses_taken >= whole.losses_taken else []
    return [*began_anew, *_differing(whole, resumed)]


def _differing(one: Done, other: Done) -> list[str]:
    return [what for what, bits in one.bits.items() if bits != other.bits[what]]


def _found(different: Mapping[str, Mapping[str, list[str]]], how: str) -> Found:
    rows = [
        [name, against, ", ".join(what) or "nothing"]
        for name, results in different.items()
        for against, what in results.items()
    ]
    return Found(
        says=f"{len(different)} jobs {how}, {sum(any(results.values()) for results in different.values())} differ",
        figures={name: dict(results) for name, results in different.items()},
        lines=table_lines(("job", "against", "what differs"), rows),
    )


def _require_same(different: Mapping[str, Mapping[str, list[str]]]) -> None:
    wrong = [name for name, results in different.items() if any(results.values())]
    require(not wrong, f"the same numbers must come again, but do not for: {', '.join(wrong)}")
