"""Memory, binding and the small rules between the files and the training."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ladle_contracts import Reason
from ladle_engine import METHODS, DataError, EngineError, MethodError, TaskError, average
from ladle_engine.checkpoints import discover, open_checkpoint
from ladle_engine.directions.rows import make_rows
from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.distributed.out_of_memory import is_out_of_memory
from ladle_engine.methods import AUTO_METHODS, plan_methods
from ladle_engine.methods.plan import refuse_bad_starts
from ladle_engine.model.binding import bind
from ladle_engine.model.groups import GROUPINGS
from ladle_engine.model.statistics import AveragedStatistics
from ladle_engine.pipeline.prepare import supported_precision
from ladle_engine.placements import memory_plan as preflight
from ladle_engine.placements import memory_probe
from ladle_engine.progress import Warned, ignore
from ladle_engine.resume_state import ResumeState
from ladle_engine.storage import control_group
from ladle_engine.subspace.first_reading import measure
from ladle_engine.versions import versions
from tests.builders import WITHOUT_BASE, make_base, quick_options
from tests.unit.engine.toy import TiedNet, ToyData, ToyTask, model_weights_for, norm_net, plain_net, write_checkpoints

CPU = torch.device("cpu")


class Ranks(SingleProcess):
    """Stands for one of many ranks that all have what this one has."""

    def __init__(self, size: int) -> None:
        self.size = size

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor + tensor[0] * torch.arange(len(tensor)).gt(0)


def fitting(
    monkeypatch: pytest.MonkeyPatch, available: int, ranks: int = 1, activations: int = 0, **asked: str
) -> list[preflight.MemoryPlan]:
    """For 4 checkpoints of 640 parameters, the largest tensor of 64, and a model that is in memory already."""
    monkeypatch.setattr(preflight, "available_bytes", lambda device: available)
    demand = preflight.Demand(parameters=640, largest=64, checkpoints=4, activations=activations, has_model=True)
    return list(preflight.plans(demand, CPU, Ranks(ranks), **asked))


def test_directions_are_float32_then_bfloat16_int8_int4_and_streamed_as_memory_shrinks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The centre takes 2,560 bytes, the gradient twice as much; a row 4, 2, 1 + 1/32 or 1/2 + 1/32 bytes a parameter.
    needs = {"float32": 7680 + 4 * 2560, "bfloat16": 7680 + 4 * 1280, "int8": 7680 + 4 * 660, "int4": 7680 + 4 * 340}
    for precision, needed in {**needs, "streamed": 5120}.items():
        plans = fitting(monkeypatch, int(needed / preflight.USABLE_SHARE) + 1)
        assert (plans[0].placement, plans[0].precision, plans[0].needed_bytes) == ("replicated", precision, needed)
    assert [plan.precision for plan in fitting(monkeypatch, 1 << 20)] == [*needs, "streamed"]


def test_more_ranks_share_directions_before_they_are_coarsened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    plans = fitting(monkeypatch, 15_000, ranks=4)
    assert (plans[0].placement, plans[0].precision) == ("by-parameter", "float32")
    assert "cut over 4 ranks" in plans[0].reason
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert fitting(monkeypatch, 18_000, ranks=4)[0].placement == "by-node"


def test_offloaded_directions_must_fit_into_the_hosts_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    demand = preflight.Demand(parameters=1 << 30, largest=64, checkpoints=16, activations=0, has_model=True)
    room = {"cuda": 16 << 30, "cpu": 128 << 30}
    monkeypatch.setattr(preflight, "available_bytes", lambda device: room[device.type])
    assert [plan.precision for plan in preflight.plans(demand, gpu, Ranks(1))] == ["offload", "int4", "streamed"]
    room["cpu"] = 64 << 30
    assert [plan.precision for plan in preflight.plans(demand, gpu, Ranks(1))] == ["int4", "streamed"]


def test_pinned_memory_counts_as_rounded_up_to_powers_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bucket of 40 MiB takes 64; but a chunk wastes 32 MiB at most, however many there are."""
    gpu, room = torch.device("cuda"), {"cuda": 1 << 40, "cpu": 1 << 40}
    monkeypatch.setattr(preflight, "available_bytes", lambda device: room[device.type])
    for parameters, most_wasted in ((10 << 20, 32 << 20), (1 << 30, 32 << 20)):
        demand = preflight.Demand(
            parameters=parameters, largest=64, checkpoints=1, activations=0, has_model=True, tensors=1
        )
        plan = preflight.plans(demand, gpu, Ranks(1), precision="offload")[0]
        gram_bytes = 8 * preflight.GRAM_MATRICES
        assert preflight.host_bytes(plan, demand, gpu, Ranks(1)) == 4 * parameters + most_wasted + gram_bytes
    room["cpu"] = 1 << 20
    with pytest.raises(
        EngineError, match=r"The host's memory must hold 4,328,521,768 bytes besides, and has 1,048,576 free"
    ):
        preflight.plans(demand, gpu, Ranks(1), precision="offload")


def test_gram_matrices_count_in_the_hosts_memory_and_a_basis_where_the_model_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ResNet-50's 161 tensors and 300 checkpoints: 116 MB for the inner products alone."""
    demand = preflight.Demand(parameters=640, largest=64, checkpoints=300, activations=0, has_model=True, tensors=161)
    monkeypatch.setattr(preflight, "available_bytes", lambda device: 1 << 30)
    on_cpu = preflight.plans(demand, CPU, SingleProcess())[0]
    assert on_cpu.parts["geometry"] == preflight.GRAM_MATRICES * 8 * 161 * 300**2
    on_gpu = preflight.plans(demand, torch.device("cuda"), SingleProcess())[0]
    assert on_gpu.parts["geometry"] == 8 * 161 * 300**2
    assert preflight.host_bytes(on_gpu, demand, torch.device("cuda"), SingleProcess()) == on_cpu.parts["geometry"]


def test_a_model_that_was_built_whole_is_not_cut_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "available_bytes", lambda device: 1 << 20)
    demand = preflight.Demand(parameters=640, largest=64, checkpoints=4, activations=0, has_model=True)
    for sharded in (True, False):
        plans = preflight.plans(demand, CPU, Ranks(2), sharded=sharded)
        assert {plan.placement == "sharded-model" for plan in plans} == {sharded}
    monkeypatch.setattr(preflight, "available_bytes", lambda device: 300)
    with pytest.raises(EngineError, match=r"Try `placement: sharded-model`\.$"):
        preflight.plans(demand, CPU, Ranks(2), sharded=False)


def test_weight_vectors_of_a_method_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "available_bytes", lambda device: 1 << 20)
    demand = preflight.Demand(
        parameters=640, largest=64, checkpoints=4, activations=0, has_model=True, weight_vectors=4
    )
    plan = preflight.plans(demand, CPU, SingleProcess())[0]
    assert plan.parts["vectors"] == 4 * 4 * 640
    assert "10,240 vectors" in plan.reason


def test_a_method_that_is_only_started_from_counts_too() -> None:
    options = {"twa": {"start": "learned-soup"}, "learned-soup": {"start": "psgd"}}
    plan = plan_methods("auto", {"methods": ["twa"], "options": options})
    assert set(plan.with_starts) == {"best", "twa", "learned-soup", "psgd"}


def test_another_precision_is_another_state(tmp_path: Path) -> None:
    """What int4 directions trained is not passed off as float32's."""
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, plain_net)
    found = {}
    for name, precision, state in (("a", "int4", "state"), ("b", "float32", "state"), ("c", "float32", "other")):
        average(
            folder, folder, output=tmp_path / name, task=ToyTask(plain_net), method="twa", precision=precision,
            state_dir=tmp_path / state,
        )  # fmt: skip
        found[name] = json.loads((tmp_path / name / "coefficients.json").read_text())["candidates"]["twa"]["alpha"]
    assert found["a"] != found["b"] == found["c"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"last": 0}, "`last` must be at least 1, but is 0."),
        ({"last": -1}, "`last` must be at least 1, but is -1."),
        ({"seed": "a"}, "`seed` must be a whole number from 0 to 2^63 - 1, but is 'a'."),
        ({"max_shard_bytes": 0}, "`max_shard_bytes` must be a whole number from 1 to 2^63 - 1, but is 0."),
        ({"device": "gpu"}, "`device` must be one that torch can use here, but is 'gpu': "),
        ({"device": "meta"}, "`device` must be one of cpu, cuda, where sums are float64 and memory is known, but is"),
        ({"pattern": 3}, "`pattern` must be a text, but is 3."),
        ({"steps": "12"}, "`steps` must be a list of whole numbers, but is '12'."),
        ({"steps": 3}, "`steps` must be a list of whole numbers, but is 3."),
        ({"steps": [True]}, "`steps` must be a list of whole numbers, but is [True]."),
        ({"last": 2.0}, "`last` must be a whole number, but is 2.0."),
        ({"last": True}, "`last` must be a whole number, but is True."),
        ({"exclude": 3}, "`exclude` must be a text or several, but is 3."),
        ({"exclude": ["a", None]}, "`exclude` must be a text or several, but is ['a', None]."),
        ({"select_fraction": "half"}, "`select_fraction` must be between 0 and 1, but is 'half'."),
    ],
    ids=str,
)
def test_an_argument_that_breaks_its_own_rule_is_refused_at_once(
    tmp_path: Path, argument: dict[str, Any], message: str
) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    with pytest.raises(ValueError, match=re.escape(message)):
        average(tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=ToyTask(plain_net), **argument)


def test_the_validation_set_is_no_training_set(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    with pytest.raises(DataError, match="`train_set=` must be other data than `val_set=`, part of which judges"):
        average(
            tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=ToyTask(plain_net),
            train_set=tmp_path / "checkpoints" / "..",
        )  # fmt: skip


def test_activations_count_and_stand_in_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    enough = int((7680 + 4 * 2560) / preflight.USABLE_SHARE) + 1
    assert fitting(monkeypatch, enough)[0].precision == "float32"
    plan = fitting(monkeypatch, enough, activations=1000)[0]
    assert plan.precision == "bfloat16"
    assert "1,000 activations" in plan.reason
    assert f"of {enough:,} bytes that are free on cpu" in plan.reason


def test_a_machine_without_room_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        EngineError, match=r"must have 5,120 bytes \(5,120 gradient\) on each rank .*streamed.*, but 300 bytes are free"
    ) as caught:
        fitting(monkeypatch, 300)
    assert caught.value.code == "out-of-memory"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"placement": "everywhere"}, "`placement=` must be one of auto, replicated"),
        ({"precision": "int3"}, "`precision=` must be one of auto, float32"),
        ({"placement": "sharded-model"}, "`placement=` must be another one with a single rank"),
        ({"precision": "offload"}, "`precision=` must be another one on cpu, but is `offload`"),
        (
            {"placement": "by-checkpoint", "precision": "streamed"},
            "`precision=` must be another one with `by-checkpoint`",
        ),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], message: str) -> None:
    with pytest.raises(EngineError, match=re.escape(message)) as caught:
        fitting(monkeypatch, 1 << 20, **asked)
    assert caught.value.code == "invalid-placement"


def test_more_ranks_than_parameters_cannot_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"with more ranks \(641\) than parameters \(640\)"):
        fitting(monkeypatch, 1 << 30, ranks=641, placement="by-parameter")


def lacking(monkeypatch: pytest.MonkeyPatch, *tiers: str, error: type[Exception] = NotImplementedError) -> None:
    """A device that cannot pack some tiers."""

    def some(precision: str, *rest: Any) -> Any:
        if precision in tiers:
            raise error
        return make_rows(precision, *rest)

    monkeypatch.setattr(memory_probe, "make_rows", some)


@pytest.mark.parametrize("error", [NotImplementedError, AssertionError, ValueError])
def test_a_precision_that_the_device_lacks_falls_back_to_the_next_finer_one(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    told: list[object] = []
    lacking(monkeypatch, "int4", error=error)
    assert supported_precision("int4", CPU, SingleProcess(), told.append) == "int8"
    assert [event.message for event in told if isinstance(event, Warned)] == [
        "Directions are kept as int8, because cpu does not support int4."
    ]
    assert supported_precision("auto", CPU, SingleProcess(), told.append) == "auto"


def test_a_precision_without_a_finer_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, "float32")
    with pytest.raises(
        EngineError, match=r"`precision=` must be one that cpu supports on every rank.*`float32`"
    ) as caught:
        supported_precision("float32", CPU, SingleProcess(), ignore)
    assert caught.value.code == "invalid-placement"


def test_ranks_on_unlike_devices_keep_directions_alike() -> None:
    class OtherRankLacksInt4(SingleProcess):
        """Two ranks, of which this one has everything."""

        size = 2
        asked = 0

        def all_reduce(self, tensor: Tensor) -> Tensor:
            self.asked += 1
            tensor[1] = self.asked > 1
            return tensor

    assert supported_precision("int4", CPU, OtherRankLacksInt4(), ignore) == "int8"


def test_kernels_that_do_not_run_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "RuntimeError: Failed to find C compiler."
    monkeypatch.setattr("ladle_engine.placements.model_weights.kernels_failure", lambda precision, device: reason)
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, plain_net)
    outcome = average(folder, folder, output=tmp_path / "out", task=ToyTask(plain_net), method="uniform")
    assert [warning for warning in outcome.warnings if "Triton" in warning] == [
        f"Triton's kernels do not run on cpu, so torch's products are used, which are slower: {reason}"
    ]


def test_running_out_of_memory_in_the_trial_step_lowers_the_precision(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net, count=4)
    binding = bind(plain_net(), checkpoints)
    weights = model_weights_for(checkpoints, binding)
    told: list[object] = []
    tries = iter([True, False])

    def trial() -> None:
        if next(tries):
            raise torch.OutOfMemoryError

    weights.on_event, weights.trial = told.append, trial
    weights.plans = [weights.plan, replace(weights.plan, precision="bfloat16")]
    groups = GROUPINGS["model"](binding)
    weights.placement(groups).load_weights(torch.full((4, 1), 0.25, dtype=torch.float64), groups)
    assert weights.plan.precision == "bfloat16"
    assert [event.message for event in told if isinstance(event, Warned)] == [
        "Directions as float32 (replicated) ran out of memory in a trial step; they are kept as bfloat16 (replicated)."
    ]


def test_running_out_of_memory_with_the_last_plan_says_so(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net, count=4)
    binding = bind(plain_net(), checkpoints)
    weights = model_weights_for(checkpoints, binding)
    weights.trial = allocate_too_much
    with pytest.raises(
        EngineError, match=r"with every precision that was planned\. The last was a test\. Give"
    ) as caught:
        weights.placement(GROUPINGS["model"](binding))
    assert caught.value.code == "out-of-memory"


def allocate_too_much() -> None:
    torch.empty(1 << 58)


class RunsOut(ToyTask):
    """Asks for more memory than there is when a loss is taken for the n-th time."""

    def __init__(self, when: int) -> None:
        super().__init__(plain_net)
        self.left = when

    def loss(self, *arguments: Any) -> Tensor:
        self.left -= 1
        if not self.left:
            allocate_too_much()
        return super().loss(*arguments)


@pytest.mark.parametrize(
    ("when", "message"),
    [
        (1, r"The job must fit into free memory, but this rank ran out of it: .*allocate memory"),
        (
            2,
            r"`batch_size` must leave room for one forward and backward pass on every rank, but is 8: .* free on cpu\.",
        ),
        (3, r"with every precision that was planned\. The last was 5 directions of 65 numbers as streamed"),
        (6, r"The job must fit into free memory, but this rank ran out of it: .*allocate memory"),
    ],
    ids=["first-batch", "trial", "every-plan", "step"],
)
def test_running_out_of_memory_is_an_error_with_its_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int, message: str
) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    task = RunsOut(when)
    if when == 3:
        monkeypatch.setattr("ladle_engine.placements.memory_plan._choices", lambda *given: [("streamed", "replicated")])
    with pytest.raises(EngineError, match=message) as caught:
        average(tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=task, method="twa")
    assert caught.value.code == "out-of-memory"
    assert "smaller task option `batch_size`, or more ranks with `placement: sharded-model`" in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("can't allocate memory"), False),
    ],
    ids=repr,
)
def test_running_out_of_memory_is_told_from_other_errors(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) == is_one


def control_group_files(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_groups_limit_counts_and_cached_files_give_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """`memory.current` of 7.9 GiB of 8 may be 7.5 GiB of page cache."""
    root = tmp_path / "cgroup"
    lines = {1: "7:cpu:/else\n4:memory,hugetlb:/jobs/one\n0::/\n", 2: "0::/jobs/one\n"}
    (tmp_path / "own").write_text(lines[version])
    monkeypatch.setattr(control_group, "ROOT", root)
    monkeypatch.setattr(control_group, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    own = root / "jobs" / "one" if version == 2 else root / "memory" / "jobs" / "one"
    limit, used, prefix = {
        1: ("memory_limit_in_bytes", "memory_usage_in_bytes", "total_"), 2: ("memory_max", "memory_current", ""),
    }[version]  # fmt: skip
    assert control_group.free_bytes() == []
    control_group_files(own, **{limit: "1000", used: "900", "memory_stat": f"anon 200\n{prefix}inactive_file 700\n"})
    assert memory_probe.available_bytes(CPU) == 800
    control_group_files(own.parent, **{limit: "500\n", used: "100\n"})
    assert memory_probe.available_bytes(CPU) == 400, "the groups above count too"
    control_group_files(own.parent, **{limit: "max\n"})
    assert memory_probe.available_bytes(CPU) == 800
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory_probe.available_bytes(CPU) == 200, "ranks share their machine's memory"


def test_tied_tensors_are_bound_once_and_a_file_that_unties_them_is_refused(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, TiedNet)
    binding = bind(TiedNet(), checkpoints)
    assert dict(binding.aliases) == {"second.weight": "first.weight"}
    assert "second.weight" not in binding.parameters
    state = load_file(tmp_path / "step-1.safetensors")
    save_file(state | {"second.weight": state["second.weight"] + 1}, tmp_path / "step-1.safetensors")
    untied = discover(tmp_path)
    with pytest.raises(EngineError, match=r"`second\.weight` must equal `first\.weight`.*`step-1\.safetensors`"):
        measure(untied, bind(TiedNet(), untied), ignore)


def test_files_without_the_tied_alias_bind_too(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, TiedNet)
    for path in tmp_path.glob("*.safetensors"):
        state = load_file(path)
        del state["second.weight"]
        save_file(state, path)
    binding = bind(TiedNet(), discover(tmp_path))
    assert not binding.aliases
    assert "first.weight" in binding.parameters


def test_a_model_with_a_tensor_more_or_less_than_the_files_is_refused(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    with pytest.raises(TaskError, match="but the checkpoints have none of that name"):
        bind(torch.nn.Sequential(plain_net(), torch.nn.Linear(1, 1)), checkpoints)
    with pytest.raises(TaskError, match=r"has no tensor `2\.bias`, but the checkpoints do \(2 such tensors\)"):
        bind(torch.nn.Sequential(torch.nn.Linear(6, 8)), checkpoints)


def test_averaged_variances_never_become_negative(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, norm_net, count=3)
    binding = bind(norm_net(), checkpoints)
    statistics = AveragedStatistics(checkpoints, binding)
    groups = GROUPINGS["model"](binding)
    recomputed = statistics.recompute(torch.tensor([[2.0], [-1.5], [0.5]], dtype=torch.float64), groups)
    with open_checkpoint(checkpoints.checkpoints[0]) as first, open_checkpoint(checkpoints.checkpoints[2]) as last:
        for name in ("1.running_mean", "1.running_var"):
            expected = 0.8 * first.read(name) + 0.2 * last.read(name)
            assert torch.allclose(recomputed[name], expected)
    assert bool((recomputed["1.running_var"] > 0).all())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_trained_on_the_select_split_and_only_rows_of_fixed_numbers_and_multiples_are_picked_there(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ladle_engine.pipeline import candidates

    task = ToyTask(plain_net)
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    choose = candidates.run_once
    trained_on: list[int] = []
    evaluated: list[int] = []

    def spying(context: Any, name: str) -> Any:
        if name == "best":
            return choose(context, name)
        batch = ToyData.batch
        forbidden = set(context.select.indices.tolist())

        def watched(data: ToyData, indices: torch.Tensor) -> Any:
            # What is evaluated is evaluated without gradients.
            seen = trained_on if torch.is_grad_enabled() else evaluated
            seen.extend(index for index in indices.tolist() if index in forbidden)
            return batch(data, indices)

        with monkeypatch.context() as patch:
            patch.setattr(ToyData, "batch", watched)
            return choose(context, name)

    monkeypatch.setattr(candidates, "run_once", spying)
    options = quick_options(5, steps=3).get(method, {})
    base = make_base(tmp_path / "base.safetensors", tmp_path / "checkpoints" / "step-0.safetensors")
    average(
        tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=task, method=method, method_options=options,
        base=None if method in WITHOUT_BASE else base,
    )  # fmt: skip
    assert not trained_on
    rows, rescaled = (
        {"second-best", "last-k", "ema", "profile", "wise-ft", "extrapolate"},
        {"twa", "twa-layerwise", "twa-gram-schmidt", "pca"},
    )
    assert not evaluated or method in rows | rescaled
    if method in rescaled:
        assert evaluated
        evaluated.clear()
        options = {**options, "rescale": False}
        average(
            tmp_path / "checkpoints", tmp_path, output=tmp_path / "as-trained", task=task, method=method,
            method_options=options,
        )  # fmt: skip
        assert not evaluated


def test_a_task_with_a_loss_alone_is_judged_by_it(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    outcome = average(tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=ToyTask(plain_net))
    assert (outcome.metric, outcome.higher_is_better) == ("loss", False)
    scores = {score.method: score for score in outcome.candidates}
    assert outcome.gain == pytest.approx(scores["best"].select["loss"] - scores[outcome.method].select["loss"])
    assert outcome.gain >= 0


def test_when_no_average_is_better_the_best_checkpoint_comes_back_unchanged(tmp_path: Path) -> None:
    """One answers zero, which is not bad; the others answer wildly, and so does every mixture with them."""
    write_checkpoints(tmp_path / "checkpoints", plain_net, count=3, spread=20.0)
    first = tmp_path / "checkpoints" / "step-0.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(first).items()}, first)
    outcome = average(
        tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=ToyTask(plain_net),
        method_options={"methods": ["uniform"]},
    )  # fmt: skip
    assert outcome.method == "best"
    assert (outcome.gain, outcome.gain_low, outcome.gain_high) == (0, 0, 0)
    written = load_file(tmp_path / "out" / "model.safetensors")
    original = load_file(tmp_path / "checkpoints" / outcome.best_checkpoint)
    assert all(torch.equal(written[name], tensor) for name, tensor in original.items())
    assert "No average was better" in (tmp_path / "out" / "README.md").read_text()


def test_every_code_that_the_engine_raises_is_a_reason_of_the_contracts() -> None:
    import re

    import ladle_engine

    folder = Path(ladle_engine.__file__).parent
    raised = re.compile(
        r"(?:EngineError|CheckpointError|TaskError|DataError|MethodError|OutputError)\(\s*\"([a-z-]+)\"|code=\"([a-z-]+)\""
    )
    codes = {one or other for path in folder.rglob("*.py") for one, other in raised.findall(path.read_text())}
    assert len(codes) > 15, "the pattern finds them"
    assert codes <= {str(reason) for reason in Reason}


def test_versions_name_what_decides_the_numbers() -> None:
    assert {"python", "torch", "ladle", "safetensors", "numpy", "transformers"} <= set(versions())


class Scaled(torch.nn.Module):
    """BatchNorm, and floating, integer and boolean buffers that are no BatchNorm's."""

    def __init__(self) -> None:
        super().__init__()
        self.net = norm_net()
        self.register_buffer("temperature", torch.zeros(()))
        self.register_buffer("version", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mask", torch.zeros(1, dtype=torch.bool))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.net(x) * self.temperature * self.mask
        return result


def scaled_checkpoints(folder: Path) -> Path:
    write_checkpoints(folder, Scaled, count=3)
    for number in range(3):
        path = folder / f"step-{number}.safetensors"
        own = {
            "temperature": torch.tensor(1.0 + number), "version": torch.tensor(10 + number), "mask": torch.ones(1) > 0,
        }  # fmt: skip
        save_file(load_file(path) | own, path)
    return folder


def test_buffers_beside_batch_norm_are_averaged_or_the_references_also_after_a_resume(tmp_path: Path) -> None:
    from ladle_engine import candidate_state

    folder = scaled_checkpoints(tmp_path / "checkpoints")
    task = ToyTask(Scaled, count=1400)
    losses = []
    for name in ("fresh", "resumed"):
        # `uniform` alone the second time: the checkpoints' own values come from the state, and none is loaded.
        outcome = average(
            folder, folder, output=tmp_path / name, task=task, method="uniform", state_dir=tmp_path / "state"
        )
        (path,) = (tmp_path / "state").rglob("evaluations.pt")
        saved = ResumeState(path.parent.parent, path.parent.name)
        known = saved.load("evaluations")
        assert known is not None
        saved.save("evaluations", {key: value for key, value in known.items() if key.startswith("single-")})
        losses.append([score.select["loss"] for score in outcome.candidates])
        state = candidate_state(tmp_path / name, folder, "uniform")
        assert float(state["temperature"]) == 2.0
        assert int(state["version"]) == 12
        assert bool(state["mask"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("count", [1026, 1027])
def test_a_last_batch_of_one_example_does_not_stop_batch_norm(tmp_path: Path, count: int) -> None:
    write_checkpoints(tmp_path / "checkpoints", norm_net)
    average(
        tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=ToyTask(norm_net, count=count, batch_size=8),
        method="uniform",
    )  # fmt: skip
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_what_overflows_in_the_outputs_dtype_is_noticed_when_it_is_judged(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", norm_net, count=3)
    path = tmp_path / "checkpoints" / "step-1.safetensors"
    state = load_file(path)
    save_file(state | {"1.running_var": state["1.running_var"] + 1e5}, path)
    with pytest.raises(
        EngineError,
        match=r"`1\.running_var` of checkpoint `step-1\.safetensors` is too large: it reaches 100001, and float16",
    ):
        average(
            tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=ToyTask(norm_net), method="uniform",
            dtype="float16",
        )  # fmt: skip


class BrokenGradient(ToyTask):
    """A finite loss whose gradient is NaN: the square root at zero."""

    def loss(self, model: Any, batch: Any) -> torch.Tensor:
        return super().loss(model, batch) + (model(batch["x"]) * 0).abs().sum().sqrt()


def test_a_gradient_that_is_nan_is_an_error_though_the_loss_is_finite(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    with pytest.raises(EngineError, match="gradient") as caught:
        average(
            tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=BrokenGradient(plain_net), method="twa"
        )
    assert caught.value.code == "non-finite-loss"


def test_a_fit_split_smaller_than_a_batch_is_one_batch(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    outcome = average(
        tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=ToyTask(plain_net, count=12, batch_size=8)
    )
    assert [score.method for score in outcome.candidates] == list(AUTO_METHODS)


def test_two_names_for_the_same_weights_are_pointed_out(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net, count=3)
    (tmp_path / "checkpoints" / "final.safetensors").write_bytes(
        (tmp_path / "checkpoints" / "step-2.safetensors").read_bytes()
    )
    outcome = average(tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=ToyTask(plain_net))
    (warning,) = outcome.warnings
    assert warning.startswith("`step-2.safetensors` and `final.safetensors` hold the same weights")


def test_a_full_disk_under_the_resume_state_says_so(tmp_path: Path) -> None:
    import resource

    from ladle_engine.resume_state import ResumeState

    state = ResumeState(tmp_path, "f")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(EngineError, match="`state_dir` must fit on its disk") as refused:
            state.save("key", {"tensor": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.code == "disk-full"
    assert state.load("key") is None


@pytest.mark.parametrize(
    ("method", "options", "needs_order"),
    [
        ("last-k", {}, True),
        ("ema", {}, True),
        ("profile", {}, True),
        ("search", {"over": "profile"}, True),
        ("search", {"over": "axes"}, False),
        ("search", {"over": "groups"}, False),
        ("extrapolate", {}, True),
        ("extrapolate", {"beyond": "best"}, False),
        ("best", {}, False),
        ("uniform", {}, False),
        ("twa", {}, False),
        ("auto", {}, False),
        ("auto", {"methods": ["best", "ema", "extrapolate"]}, True),
        ("auto", {"methods": ["ema", "extrapolate"], "options": {"extrapolate": {"beyond": "best"}}}, False),
    ],
)
def test_what_is_asked_for_may_go_by_the_order_of_the_checkpoints(
    method: str, options: dict[str, Any], needs_order: bool
) -> None:
    assert plan_methods(method, options).needs_order is needs_order


def test_only_methods_that_can_be_starts_are_offered() -> None:
    plan = plan_methods("twa", {"start": "nowhere"})
    with pytest.raises(MethodError) as raised:
        refuse_bad_starts(plan, ["step-1"])
    offered = raised.value.message.partition("one of ")[2].partition(", but")[0].split(", ")
    for start in ("auto", *offered):
        refuse_bad_starts(plan_methods("twa", {"start": start}), ["step-1"])
    assert not {"twa", "model-stock", "wise-ft", "extrapolate"} & set(offered)
