"""LoRA adapters, made by PEFT: read, averaged in delta space or factor by factor, and loaded by PEFT again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ladle_engine import combine_checkpoints
from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.adapters.modules import Module
from ladle_engine.checkpoints.adapters.space import in_space
from ladle_engine.checkpoints.readers import open_all
from ladle_engine.checkpoints.types import TensorInfo
from ladle_engine.errors import CheckpointError
from ladle_engine.output.adapter_factors import RankRule, refactor
from tests.unit.engine.lora import difference, load_base, make_adapter, make_sweep, mean_merged, merged

EXACT = 2e-6
"""Of weights of size 1 that are summed in float32."""

SWEEPS: dict[str, dict[str, dict[str, Any]]] = {
    "equal": {"a": {}, "b": {}, "c": {}},
    "ranks and alphas": {"a": {"r": 2, "lora_alpha": 3}, "b": {"r": 8, "lora_alpha": 16}, "c": {"r": 1}},
    "rank-stabilised": {"a": {"use_rslora": True}, "b": {"r": 8}, "c": {"r": 3, "use_rslora": True}},
    "patterns": {
        "a": {"rank_pattern": {"c_attn": 2}, "alpha_pattern": {"h.0.attn.c_attn": 5}},
        "b": {"rank_pattern": {r".*\.1\..*c_proj": 6}},
        "c": {"alpha_pattern": {"mlp.c_proj": 1}},
    },
    "more than the inputs": {"a": {"r": 12}, "b": {"r": 9}},
    "embedding": {name: {"target_modules": ["wte", "c_attn"]} for name in ("a", "b")},
    "whole modules": {name: {"modules_to_save": ["ln_f"]} for name in ("a", "b")},
    "bias": {name: {"bias": "lora_only"} for name in ("a", "b")},
    "all biases": {name: {"bias": "all"} for name in ("a", "b")},
    "bias of B": {"a": {"lora_bias": True}, "b": {"lora_bias": True, "lora_alpha": 2}},
}


@pytest.mark.parametrize("name", SWEEPS)
def test_with_all_ranks_an_average_is_the_mean_of_what_the_adapters_add(tmp_path: Path, name: str) -> None:
    sweep, base = make_sweep(tmp_path, SWEEPS[name]), tmp_path / "base"
    out = combine_checkpoints(sweep, output=tmp_path / "out", adapter_rank=36)
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 36
    expected = mean_merged(lambda: load_base(base), sweep)
    assert difference(merged(load_base(base), out), expected) < EXACT
    assert difference(expected, merged(load_base(base), sweep / "a")) > 1e-2


def test_the_smallest_rank_within_the_error_is_chosen(tmp_path: Path) -> None:
    sweep, base = make_sweep(tmp_path, SWEEPS["ranks and alphas"]), tmp_path / "base"
    expected = mean_merged(lambda: load_base(base), sweep)
    plain = {name: each.double() for name, each in load_base(base).state_dict().items()}
    ranks = {}
    for error in (0.0, 0.01, 0.3):
        out = combine_checkpoints(sweep, output=tmp_path / f"out-{error}", adapter_error=error)
        ranks[error] = json.loads((out / "adapter_config.json").read_text())["r"]
        left = _norm(merged(load_base(base), out), expected) / _norm(plain, expected)
        assert left <= error + 1e-5
        smaller = combine_checkpoints(sweep, output=tmp_path / f"less-{error}", adapter_rank=ranks[error] - 1)
        assert _norm(merged(load_base(base), smaller), expected) / _norm(plain, expected) > error
    assert ranks[0.0] == 11
    assert ranks[0.3] < ranks[0.01] <= 11


def _norm(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return float(sum((one[name] - other[name]).square().sum() for name in one)) ** 0.5


def test_weights_are_those_of_the_deltas(tmp_path: Path) -> None:
    sweep, base = make_sweep(tmp_path, SWEEPS["ranks and alphas"]), tmp_path / "base"
    weights = [1.5, -0.7, 0.2]
    out = combine_checkpoints(sweep, output=tmp_path / "out", weights=weights, adapter_error=0.0)
    states = [merged(load_base(base), sweep / name) for name in "abc"]
    expected = {
        name: sum((w * state[name] for w, state in zip(weights, states, strict=True)), torch.zeros(()).double())
        for name in states[0]
    }
    assert difference(merged(load_base(base), out), expected) < EXACT


def test_one_adapter_alone_is_written_as_it_is_whatever_the_rank(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, SWEEPS["patterns"])
    out = combine_checkpoints(sweep, output=tmp_path / "out", weights=[0, 1, 0], adapter_rank=1)
    one, other = load_file(out / "adapter_model.safetensors"), load_file(sweep / "b/adapter_model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert json.loads((out / "adapter_config.json").read_text()) == json.loads(
        (sweep / "b/adapter_config.json").read_text()
    )


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 4, (1, 3), bias=False)
        self.head = nn.Linear(4, 2)

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(pictures)).mean(dim=(2, 3)))
        return logits


def pictures() -> Pictures:
    torch.manual_seed(0)
    return Pictures()


def make_convolutions(folder: Path, **config: Any) -> Path:
    for seed, rank in enumerate((2, 5), start=1):
        settings = {"r": rank, "target_modules": ["first", "second"], "modules_to_save": ["head"], **config}
        make_adapter(folder / f"rank{rank}", pictures(), seed, **settings)
    return folder


def test_convolutions(tmp_path: Path) -> None:
    sweep = make_convolutions(tmp_path / "sweep")
    out = combine_checkpoints(sweep, output=tmp_path / "out", adapter_rank=7)
    assert difference(merged(pictures(), out), mean_merged(pictures, sweep)) < EXACT


@pytest.mark.parametrize("dtype", ["keep", "float32", "bfloat16"])
def test_the_types_are_those_of_the_adapters_or_the_one_asked_for(tmp_path: Path, dtype: str) -> None:
    make = {"change": lambda model: model.to(torch.bfloat16)}
    sweep = make_sweep(tmp_path, {"a": make, "b": {**make, "r": 2}})
    out = combine_checkpoints(sweep, output=tmp_path / "out", adapter_error=0.0, dtype=dtype)
    expected = torch.float32 if dtype == "float32" else torch.bfloat16
    assert {each.dtype for each in load_file(out / "adapter_model.safetensors").values()} == {expected}
    base = tmp_path / "base"
    mean = mean_merged(lambda: load_base(base), sweep)
    assert difference(merged(load_base(base), out), mean) < 2e-2


def test_a_trainers_folder_of_adapters_in_pickles_with_the_last_one_in_the_root(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {f"checkpoint-{step}": {} for step in (9, 10, 11)})
    for step in (9, 10, 11):
        home = sweep / f"checkpoint-{step}"
        torch.save(load_file(home / "adapter_model.safetensors"), home / "adapter_model.bin")
        (home / "adapter_model.safetensors").unlink()
        (home / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        torch.save({"lr": 1}, home / "optimizer.pt")
        (home / "tokenizer.json").write_text("{}")
    for name in ("adapter_model.bin", "adapter_config.json"):
        shutil.copy(sweep / "checkpoint-11" / name, sweep / name)
    found = discover(sweep)
    assert found.names == ("checkpoint-9", "checkpoint-10", "checkpoint-11")
    assert "`checkpoint-11` and `adapter_model.bin` hold the same weights" in " ".join(found.warnings)
    out = combine_checkpoints(sweep, output=tmp_path / "out", adapter_error=0.0)
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
    ]


def test_adapters_with_the_same_factors_and_other_alphas_are_not_the_same(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"a": {}})
    shutil.copytree(sweep / "a", sweep / "b")
    _edit(sweep / "b", lora_alpha=16)
    assert discover(sweep).names == ("a", "b")
    shutil.copytree(sweep / "a", sweep / "c")
    assert discover(sweep).names == ("a", "b")


def _edit(adapter: Path, **changed: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_lengths_and_angles_in_delta_space_are_those_of_the_deltas(tmp_path: Path) -> None:
    sweep, base = make_sweep(tmp_path, SWEEPS["ranks and alphas"]), tmp_path / "base"
    checkpoints = in_space(discover(sweep), "delta")
    with open_all(checkpoints) as readers:
        seen = [torch.cat([reader.read(name).double().flatten() for name in checkpoints.tensors]) for reader in readers]
    plain = {name: each.double() for name, each in load_base(base).state_dict().items()}
    deltas = []
    for name in "abc":
        state = merged(load_base(base), sweep / name)
        # The tied head is the embedding once more.
        deltas.append(torch.cat([(state[key] - plain[key]).flatten() for key in plain if key != "lm_head.weight"]))
    for i in range(3):
        for j in range(3):
            expected = (deltas[i] - deltas[0]) @ (deltas[j] - deltas[0])
            assert float((seen[i] - seen[0]) @ (seen[j] - seen[0])) == pytest.approx(
                float(expected), rel=1e-4, abs=1e-5
            )


def test_factor_by_factor_each_factor_is_averaged(tmp_path: Path) -> None:
    sweep, base = make_sweep(tmp_path, {"a": {}, "b": {"lora_alpha": 4}}), tmp_path / "base"
    out = combine_checkpoints(sweep, output=tmp_path / "out", adapter_space="factors")
    made, a, b = (load_file(each / "adapter_model.safetensors") for each in (out, sweep / "a", sweep / "b"))
    # The config is the reference's, whose scale is half of a's.
    expected = {name: (a[name] * (2 if "lora_B" in name else 1) + b[name]) / 2 for name in made}
    assert difference(made, expected) < EXACT
    assert json.loads((out / "adapter_config.json").read_text())["lora_alpha"] == 4
    merged(load_base(base), out)


def test_dora_is_averaged_factor_by_factor_alone(tmp_path: Path) -> None:
    sweep, base = make_sweep(tmp_path, {"a": {"use_dora": True}, "b": {"use_dora": True}}), tmp_path / "base"
    with pytest.raises(CheckpointError, match=r"is DoRA.*`adapter_space=` factors"):
        combine_checkpoints(sweep, output=tmp_path / "out")
    out = combine_checkpoints(sweep, output=tmp_path / "out", adapter_space="factors")
    made, a, b = (load_file(each / "adapter_model.safetensors") for each in (out, sweep / "a", sweep / "b"))
    assert difference(made, {name: (a[name] + b[name]) / 2 for name in made}) < EXACT
    merged(load_base(base), out)


def test_large_layers_are_never_multiplied_out() -> None:
    """A square of their size would have 160 GB."""
    outputs, inputs, rank = 200_000, 200_000, 4
    b, a = torch.randn(outputs, rank), torch.randn(rank, inputs)
    info = {"a": TensorInfo(shape=(rank, inputs), dtype=a.dtype), "b": TensorInfo(shape=(outputs, rank), dtype=b.dtype)}
    module = Module(a="a", b="b", bias="bias", a_info=info["a"], b_info=info["b"], scale=1.0)
    made = refactor({"layer": module}, {"a": a, "b": b}.__getitem__, RankRule(rank=4))
    a_again, b_again = made.factors["layer"]
    rows, columns = torch.randint(outputs, (50,)), torch.randint(inputs, (50,))
    assert torch.allclose(b_again[rows] @ a_again[:, columns], (b[rows] @ a[:, columns]).double(), atol=1e-4)
    assert made.error == 0.0


Break = Callable[[Path], None]


def _other_tensor(adapter: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})


def _without(part: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if part in name]:
            del tensors[name]

    return change


def _wider(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if "lora_A" in name]:
        tensors[name] = torch.randn(4, 24)


def _not_a_number(tensors: dict[str, Tensor]) -> None:
    tensors[next(name for name in tensors if "lora_A" in name)][0, 0] = float("nan")


BROKEN: dict[str, tuple[Break, str]] = {
    "another base": (lambda b: _edit(b, base_model_name_or_path="/models/other"), "of one base model.*`other`"),
    "sizes of another base": (lambda b: _other_tensor(b, _wider), "of one base model.*24"),
    "fewer layers": (lambda b: _other_tensor(b, _without("h.1.")), "the same target modules.*h.1.*`b` does not"),
    "a lying rank": (lambda b: _edit(b, r=8), "of rank 4, but `adapter_config.json` says that its rank is 8"),
    "a rank that is a text": (lambda b: _edit(b, r="4"), "whole numbers from 1 as ranks, but has '4'"),
    "no alpha": (lambda b: _edit(b, lora_alpha=None), "numbers as `lora_alpha`, but has None"),
    "half a layer": (lambda b: _other_tensor(b, _without("h.0.attn.c_attn.lora_B")), "no `.*c_attn.lora_B.weight`"),
    "no factors": (lambda b: _other_tensor(b, _without("lora_A")), "must hold factors of LoRA"),
    "prefix tuning": (lambda b: _edit(b, peft_type="PREFIX_TUNING"), "`peft_type` is 'PREFIX_TUNING'. Only LoRA"),
    "IA3": (lambda b: _edit(b, peft_type="IA3"), "`peft_type` is 'IA3'"),
    "PiSSA": (lambda b: _edit(b, init_lora_weights="pissa_niter_4"), "path_initial_model_for_weight_conversion"),
    "layers twice": (lambda b: _edit(b, layer_replication=[[0, 2]]), "uses `layer_replication`"),
    "no JSON": (lambda b: (b / "adapter_config.json").write_text("{") and None, "must be a JSON file"),
    "a list": (lambda b: (b / "adapter_config.json").write_text("[]") and None, "must be a JSON object"),
    "a wrong pattern": (lambda b: _edit(b, rank_pattern={"(": 2}), "regular expressions as `rank_pattern`"),
    "not a number": (lambda b: _other_tensor(b, _not_a_number), "must be finite.*lora_A.*in `b`"),
    "DoRA beside": (lambda b: _edit(b, use_dora=True), "is DoRA"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_is_refused_in_words(tmp_path: Path, name: str) -> None:
    sweep = make_sweep(tmp_path, {"a": {}, "b": {}})
    change, message = BROKEN[name]
    change(sweep / "b")
    with pytest.raises(CheckpointError, match=message):
        combine_checkpoints(sweep, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_ranks_are_refused_factor_by_factor(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"a": {"r": 2}, "b": {}})
    with pytest.raises(CheckpointError, match=r"the same ranks.*rank 2 in `a`.*`adapter_space=` delta"):
        combine_checkpoints(sweep, output=tmp_path / "out", adapter_space="factors")


def test_adapters_beside_whole_models_are_refused(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"a": {}, "b": {}})
    load_base(tmp_path / "base").save_pretrained(sweep / "c")
    with pytest.raises(CheckpointError, match=r"all be adapters or all be whole models.*`c` is not.*`exclude=`"):
        combine_checkpoints(sweep, output=tmp_path / "out")
    combine_checkpoints(sweep, output=tmp_path / "out", exclude="c")


def test_adapters_without_their_configs_are_refused(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"a": {}, "b": {}})
    (tmp_path / "flat").mkdir()
    for name in "ab":
        shutil.copy(sweep / name / "adapter_model.safetensors", tmp_path / "flat" / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"nothing but factors of LoRA.*in a folder of its own"):
        combine_checkpoints(tmp_path / "flat", output=tmp_path / "out")


def test_what_is_said_of_adapters_is_refused_for_whole_models(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({"w": torch.full((2,), float(number))}, tmp_path / f"step-{number}.safetensors")
    with pytest.raises(CheckpointError, match=r"`adapter_rank=` must be absent.*whole models"):
        combine_checkpoints(tmp_path, output=tmp_path / "out", adapter_rank=4)


def test_the_same_base_at_another_place_is_the_same(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"a": {}, "b": {}})
    _edit(sweep / "a", base_model_name_or_path="/elsewhere/base/")
    combine_checkpoints(sweep, output=tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"adapter_space": "sum"}, "`adapter_space` must be one of delta, factors, but is 'sum'"),
        ({"adapter_rank": 0}, "`adapter_rank` must be a whole number from 1"),
        ({"adapter_rank": True}, "`adapter_rank` must be a whole number from 1"),
        ({"adapter_error": 1.0}, "`adapter_error` must be at least 0 and below 1"),
        ({"adapter_error": float("nan")}, "`adapter_error` must be at least 0 and below 1"),
        ({"adapter_rank": 4, "adapter_error": 0.1}, "`adapter_error` must be absent where `adapter_rank` is given"),
        ({"adapter_space": "factors", "adapter_rank": 4}, "`adapter_rank` must be absent with `adapter_space` factors"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combine_checkpoints(tmp_path, output=tmp_path / "out", **arguments)
