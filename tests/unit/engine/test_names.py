"""Wrappers put prefixes before the names of tensors: they fit all the same, and the result has the files' names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ladle_engine import EngineError, average, candidate_state, combine_checkpoints, discover, rebuild
from ladle_engine.checkpoints.names import fit, unwrapped
from ladle_engine.checkpoints.types import TensorInfo
from ladle_engine.model.binding import bind
from ladle_engine.progress import ProgressEvent, Warned
from tests.unit.engine.toy import ToyTask, norm_net, plain_net

State = dict[str, Tensor]


@dataclass
class Messages:
    """The warnings of a run."""

    said: list[str] = field(default_factory=list)

    def __call__(self, event: ProgressEvent) -> None:
        if isinstance(event, Warned):
            self.said.append(event.message)


def states(build: Callable[[], nn.Module] = plain_net, count: int = 3) -> list[State]:
    torch.manual_seed(0)
    models = [build() for _ in range(count)]
    return [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def inside(wrapper: str, state: State) -> State:
    return {name.replace(".", f".{wrapper}."): tensor for name, tensor in state.items()}


def written(folder: Path, made: list[State], how: Callable[[State], State] = dict) -> Path:
    folder.mkdir()
    for number, state in enumerate(made, start=1):
        torch.save(how(state), folder / f"step-{number}.pt")
    return folder


def averaged(folder: Path, output: Path, build: Callable[[], nn.Module] = plain_net) -> State:
    """The uniform average, whether it won or not; what was written has the same names."""
    average(folder, folder, output=output, task=ToyTask(build), method="uniform")
    uniform = candidate_state(output, folder, "uniform")
    assert load_file(output / "model.safetensors").keys() == uniform.keys()
    return uniform


WRAPPED = {
    "ddp": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled ddp": prefixed("_orig_mod.module."),
    "ddp of compiled": prefixed("module._orig_mod."),
    "fsdp": prefixed("_fsdp_wrapped_module."),
    "lightning": prefixed("model."),
    "lightning compiled": prefixed("model._orig_mod."),
    "a net in a model in ddp": prefixed("module.model.net."),
    "ema": prefixed("ema_model."),
    "student": prefixed("student.backbone."),
    "averaged model": lambda state: {"n_averaged": torch.tensor(7), **prefixed("module.")(state)},
    "ema beside its counters": lambda state: {
        **{"initted": torch.tensor(True), "step": torch.tensor([3])},
        **prefixed("ema_model.")(state),
    },
    "checkpointed block": lambda state: inside("_checkpoint_wrapped_module", state),
    "ddp of a block": lambda state: inside("module", state),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_wrapped_model_fits_and_the_result_has_the_names_of_its_files(
    tmp_path: Path, wrap: Callable[[State], State]
) -> None:
    made = states()
    plain = averaged(written(tmp_path / "plain", made), tmp_path / "out-plain")
    result = averaged(written(tmp_path / "wrapped", made, wrap), tmp_path / "out-wrapped")
    assert result.keys() == wrap(made[0]).keys()
    for name, tensor in wrap(plain).items():
        assert torch.equal(result[name], tensor), name


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_files_are_combined_under_the_names_that_they_have(tmp_path: Path, wrap: Callable[[State], State]) -> None:
    made = states(count=2)
    output = combine_checkpoints(written(tmp_path / "in", made, wrap), output=tmp_path / "out")
    model = load_file(output / "model.safetensors")
    assert model.keys() == wrap(made[0]).keys()
    means = wrap({name: (made[0][name].double() + made[1][name].double()).div(2).float() for name in made[0]})
    assert all(torch.equal(model[name], means[name]) for name in means)


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_one_checkpoint_with_a_prefix_fits_others_without(tmp_path: Path, wrap: Callable[[State], State]) -> None:
    """The last checkpoint is the reference: its names are the result's."""
    made = states(count=2)
    plain = load_file(
        combine_checkpoints(written(tmp_path / "plain", made), output=tmp_path / "out") / "model.safetensors"
    )
    for number, (first, last) in enumerate([(made[0], wrap(made[1])), (wrap(made[0]), made[1])]):
        folder = written(tmp_path / f"in-{number}", [first, last])
        model = load_file(combine_checkpoints(folder, output=tmp_path / f"out-{number}") / "model.safetensors")
        assert model.keys() == last.keys()
        expected = plain if last is made[1] else wrap(plain)
        assert all(torch.equal(model[name], expected[name]) for name in expected)
        assert averaged(folder, tmp_path / f"averaged-{number}").keys() == last.keys()


def test_torchs_averaged_model_loads_what_became_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    torch.manual_seed(0)
    for step in (1, 2, 3):
        model = AveragedModel(norm_net(), use_buffers=True)
        model.n_averaged += step
        torch.save(model.state_dict(), folder / f"step-{step}.pt")
    messages = Messages()
    average(folder, folder, output=tmp_path / "out", task=ToyTask(norm_net), method="uniform", progress=messages)
    model = AveragedModel(norm_net(), use_buffers=True)
    model.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    assert int(model.n_averaged) == 3, "the last checkpoint's"
    assert any("no use for `n_averaged`" in message for message in messages.said)


def test_a_model_that_has_a_prefix_itself_takes_files_without_it(tmp_path: Path) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain_net()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.net(x)
            return result

    made = states()
    plain = averaged(written(tmp_path / "in", made), tmp_path / "out-plain")
    result = averaged(tmp_path / "in", tmp_path / "out", Outer)
    assert result.keys() == plain.keys()
    assert all(torch.equal(result[name], plain[name]) for name in plain)


def test_a_compiled_model_of_the_tasks_takes_plain_files(tmp_path: Path) -> None:
    class Compiled(nn.Module):
        """Named as `torch.compile` names, which would take a compiler to run."""

        def __init__(self) -> None:
            super().__init__()
            self._orig_mod = plain_net()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self._orig_mod(x)
            return result

    result = averaged(written(tmp_path / "in", states()), tmp_path / "out", Compiled)
    assert result.keys() == states()[0].keys()


def test_shards_and_a_rebuilt_model_have_the_files_names_too(tmp_path: Path) -> None:
    folder = written(tmp_path / "in", states(), prefixed("module."))
    average(folder, folder, output=tmp_path / "out", task=ToyTask(plain_net), method="uniform", max_shard_bytes=100)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    names = prefixed("module.")(states()[0]).keys()
    assert index["weight_map"].keys() == names
    rebuilt = rebuild(tmp_path / "out", folder, output=tmp_path / "again")
    assert load_file(rebuilt / "model.safetensors").keys() == names
    state = candidate_state(tmp_path / "out", folder)
    assert state.keys() == names
    assert all(torch.equal(load_file(rebuilt / "model.safetensors")[name], state[name]) for name in names)


def test_a_wrapper_that_makes_two_names_equal_is_left_on(tmp_path: Path) -> None:
    made = [{"module.w": torch.full((2,), float(n)), "w": torch.full((2,), 10.0 * n)} for n in (1, 2)]
    output = combine_checkpoints(written(tmp_path / "in", made), output=tmp_path / "out")
    model = load_file(output / "model.safetensors")
    assert model["module.w"].tolist() == [1.5, 1.5]
    assert model["w"].tolist() == [15.0, 15.0]


def test_a_renamed_tensor_is_no_prefix(tmp_path: Path) -> None:
    made = states(count=2)
    made[0]["second.weight"] = made[0].pop("2.weight")
    with pytest.raises(EngineError, match=r"`step-1\.pt` lacks the tensor `2\.weight`") as caught:
        combine_checkpoints(written(tmp_path / "in", made), output=tmp_path / "out")
    assert caught.value.code == "mismatched-checkpoints"


def test_two_models_in_one_file_are_not_taken_for_a_prefix(tmp_path: Path) -> None:
    folder = written(
        tmp_path / "in", states(), lambda state: {**prefixed("student.")(state), **prefixed("teacher.")(state)}
    )
    with pytest.raises(EngineError) as caught:
        averaged(folder, tmp_path / "out")
    assert caught.value.code == "model-mismatch"


def test_a_counter_that_one_file_has_more_is_passed_over_and_said(tmp_path: Path) -> None:
    made = states(count=2)
    messages = Messages()
    combine_checkpoints(
        written(tmp_path / "in", [{**made[0], "n_averaged": torch.tensor(3)}, made[1]]),
        output=tmp_path / "out",
        progress=messages,
    )
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == made[1].keys()
    assert any("`step-1.pt`: `n_averaged` is a single whole number" in message for message in messages.said)


def test_weights_that_only_one_file_has_are_refused(tmp_path: Path) -> None:
    made = states(count=2)
    with pytest.raises(EngineError, match=r"`step-1\.pt` has the tensor `scale`"):
        combine_checkpoints(
            written(tmp_path / "in", [{**made[0], "scale": torch.tensor(3.0)}, made[1]]), output=tmp_path / "out"
        )


def test_a_buffer_that_the_model_makes_itself_may_be_in_the_files_or_not(tmp_path: Path) -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain_net()
            self.register_buffer("inv_freq", torch.ones(3), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.net(x)
            return result

    made = states(Rotary)
    without = averaged(written(tmp_path / "without", made), tmp_path / "out-without", Rotary)
    older = [{**state, "inv_freq": torch.full((3,), 2.0)} for state in made]
    result = averaged(written(tmp_path / "with", older), tmp_path / "out-with", Rotary)
    assert result.keys() == older[0].keys()
    assert result["inv_freq"].tolist() == [2.0, 2.0, 2.0]
    assert all(torch.equal(result[name], without[name]) for name in without)


class Head(nn.Module):
    """An embedding and a head that are one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, 6, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(torch.tanh(self.wte(x))).sum(dim=1, keepdim=True)
        return result


@pytest.mark.parametrize("stored", [{"head.weight": "wte.weight"}, {}, {"wte.weight": "wte.weight"}])
@pytest.mark.parametrize("held", ["wte.weight", "head.weight"])
def test_files_may_hold_a_tied_tensor_once_under_either_name(
    tmp_path: Path, stored: Mapping[str, str], held: str
) -> None:
    made = [{held: torch.full((6, 6), float(number))} for number in (1, 2)]
    folder = written(tmp_path / "in", made)
    binding = bind(Head(), discover(folder), dict.fromkeys(stored, held))
    assert list(binding.parameters) == [held]
    assert binding.aliases == {}
    assert averaged(folder, tmp_path / "out", Head)[held].unique().tolist() == [1.5]


def test_equal_copies_of_a_tied_tensor_are_written_once(tmp_path: Path) -> None:
    made = [dict.fromkeys(("wte.weight", "head.weight"), torch.full((6, 6), float(number))) for number in (1, 2)]
    folder = written(tmp_path / "in", made)
    assert bind(Head(), discover(folder)).aliases == {"head.weight": "wte.weight"}
    assert list(averaged(folder, tmp_path / "out", Head)) == ["wte.weight"]
    made[0]["head.weight"] = torch.zeros(6, 6)
    with pytest.raises(EngineError, match=r"`head\.weight` must equal `wte\.weight`"):
        averaged(written(tmp_path / "differ", made), tmp_path / "out-2", Head)


def test_a_task_says_what_its_model_makes_itself_and_what_it_has_no_use_for(tmp_path: Path) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain_net()
            self.positions = nn.Parameter(torch.ones(6), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.net(x * self.positions)
            return result

    class Task(ToyTask):
        def stored_names(self, model: nn.Module, checkpoints: object) -> Mapping[str, str | None]:  # type: ignore[override]
            return {"positions": None, "loss.weight": "loss.weight"}

    made = [{f"net.{name}": tensor for name, tensor in state.items()} for state in states()]
    made = [{**state, "loss.weight": torch.full((2,), float(number))} for number, state in enumerate(made)]
    folder = written(tmp_path / "in", made)
    average(folder, folder, output=tmp_path / "out", task=Task(Positions), method="uniform")
    result = load_file(tmp_path / "out" / "model.safetensors")
    assert result.keys() == made[0].keys()
    assert result["loss.weight"].tolist() == [2.0, 2.0], "the last checkpoint's"
    with pytest.raises(EngineError, match="`positions` of shape"):
        averaged(folder, tmp_path / "other", Positions)


def test_two_parameters_that_are_not_tied_cannot_share_a_tensor_of_the_files(tmp_path: Path) -> None:
    folder = written(tmp_path / "in", [{"w": torch.full((6, 6), float(n))} for n in (1, 2)])
    model = nn.ModuleDict({"a": nn.Linear(6, 6, bias=False), "b": nn.Linear(6, 6, bias=False)})
    with pytest.raises(EngineError, match="does not tie them"):
        bind(model, discover(folder), {"a.weight": "w", "b.weight": "w"})


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_a_file_of_counters_and_one_weight_has_no_prefix_to_lose(
    tmp_path: Path, save: Callable[[State, Path], None]
) -> None:
    suffix = "pt" if save is torch.save else "safetensors"
    for number in (1, 2):
        save(
            {"module.count": torch.tensor(number), "w": torch.tensor([float(number)])}, tmp_path / f"{number}.{suffix}"
        )
    model = load_file(combine_checkpoints(tmp_path, output=tmp_path / "out") / "model.safetensors")
    assert model.keys() == {"module.count", "w"}


def info(*shape: int, dtype: torch.dtype = torch.float32) -> TensorInfo:
    return TensorInfo(shape=shape, dtype=dtype)


def test_every_name_fits_at_most_one() -> None:
    model = {"a.w": info(2), "b.w": info(2)}
    for prefixes in ("", "m.", "m.n.", "module.m._orig_mod."):
        present = {prefixes + name: each for name, each in model.items()}
        assert fit(model, present) == {name: prefixes + name for name in model}
        assert fit(present, model) == {prefixes + name: name for name in model}
    assert fit(model, {"x.w": info(2)}) == {}
    assert unwrapped({}) == {}


def test_a_counter_that_one_checkpoint_lacks_is_the_references(tmp_path: Path) -> None:
    """Checkpoints of before torch 0.4.1 have no `num_batches_tracked`, and AveragedModel's others no `n_averaged`."""
    made = states(norm_net)
    for number, state in enumerate(made, start=1):
        state["1.num_batches_tracked"].fill_(10 * number)
    older = [without(made[0], "1.num_batches_tracked"), *made[1:]]
    folder = written(tmp_path / "in", older)
    single = combine_checkpoints(folder, output=tmp_path / "single", weights=[1.0, 0.0, 0.0])
    assert int(load_file(single / "model.safetensors")["1.num_batches_tracked"]) == 30
    assert int(averaged(folder, tmp_path / "out", norm_net)["1.num_batches_tracked"]) == 30
    checkpoints = discover(folder)
    binding = bind(norm_net(), checkpoints)
    for checkpoint, expected in zip(checkpoints.checkpoints, (30, 20, 30), strict=True):
        binding.load(checkpoint)
        assert int(binding.counters["1.num_batches_tracked"]) == expected
    with pytest.raises(EngineError, match=r"wants|has the tensor `1\.num_batches_tracked`"):
        averaged(
            written(tmp_path / "none", [without(state, "1.num_batches_tracked") for state in made]),
            tmp_path / "out-none",
            norm_net,
        )


def without(state: State, name: str) -> State:
    return {each: tensor for each, tensor in state.items() if each != name}
