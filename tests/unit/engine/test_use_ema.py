"""`use_ema`: of each file the average that was made while training, in place of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ladle_engine import CheckpointError, average, combine_checkpoints, rebuild
from ladle_engine.progress import ProgressEvent, Warned
from tests.builders import make_checkpoints, make_val_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of checkpoints; results lie beside it."""
    made = tmp_path / "checkpoints"
    made.mkdir()
    return made


def state(number: float) -> dict[str, Tensor]:
    return {"w": torch.full((2,), float(number)), "m.b": torch.full((1,), 2.0 * number)}


def wrapped(number: float) -> dict[str, Tensor]:
    return {"n_averaged": torch.tensor(3)} | {f"module.{name}": each for name, each in state(number).items()}


def parameters(number: float) -> dict[str, Tensor]:
    """Without what is a buffer."""
    return {"w": state(number)["w"]}


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": each for name, each in tensors.items()}


TOOLS: dict[str, Callable[[int], Any]] = {
    "timm": lambda i: {"state_dict": state(i), "state_dict_ema": state(10 * i), "epoch": i},
    "torchvision references": lambda i: {"model": state(i), "model_ema": wrapped(10 * i), "epoch": i},
    "basicsr": lambda i: {"params": state(i), "params_ema": state(10 * i)},
    "icefall": lambda i: {"model": state(i), "model_avg": state(10 * i), "batch_idx_train": i, "optimizer": None},
    "fairseq": lambda i: {"model": state(i), "extra_state": {"epoch": i, "ema": state(10 * i)}, "args": None},
    "yolox": lambda i: {"model": state(i), "ema": {"module": state(10 * i), "updates": 3}},
    "pytorch_ema by name": lambda i: {"model": state(i), "ema": {"decay": 0.9, "shadow": parameters(10 * i)}},
    "ema-pytorch": lambda i: {
        "model": state(i),
        "ema": {
            **{"initted": torch.tensor([True]), "step": torch.tensor([3])},
            **below("online_model.", state(i)),
            **below("ema_model.", state(10 * i)),
        },
    },
    "a module within the model": lambda i: {"state_dict": below("net.", state(i)) | below("ema_net.", state(10 * i))},
    "lightning 2.6": lambda i: {
        **{"state_dict": state(10 * i), "current_model_state": state(i), "epoch": i},
        "averaging_state": {"n_averaged": torch.tensor(3)},
    },
    "lightning's stochastic weight averaging": lambda i: {
        "state_dict": state(i),
        "callbacks": {
            "ModelCheckpoint": {"best_model_score": torch.tensor(0.5)},
            "StochasticWeightAveraging": {"n_averaged": 3, "average_model_state": state(10 * i)},
        },
    },
    "a callback of lightning's": lambda i: {
        "state_dict": state(i),
        "callbacks": {"EMACallback": {"ema_state_dict": state(10 * i)}},
    },
    "mmengine": lambda i: {
        **{"state_dict": state(10 * i), "ema_state_dict": {"steps": torch.tensor(3), **below("module.", state(i))}},
        **{"message_hub": {"log_scalars": {}}, "meta": {"epoch": i}},
    },
    "compiled": lambda i: {"model": below("_orig_mod.", state(i)), "ema": below("_orig_mod.module.", state(10 * i))},
}


@pytest.mark.parametrize("make", TOOLS.values(), ids=TOOLS)
def test_the_average_of_each_tool_is_taken_with_the_models_names(
    folder: Path, tmp_path: Path, make: Callable[[int], Any]
) -> None:
    for number in (1, 2):
        torch.save(make(number), folder / f"epoch-{number}.pt")
    raw = load_file(combine_checkpoints(folder, output=tmp_path / "raw") / "model.safetensors")
    model = load_file(combine_checkpoints(folder, output=tmp_path / "ema", use_ema=True) / "model.safetensors")
    bare = {name.removeprefix("_orig_mod."): each.tolist() for name, each in model.items()}
    assert bare["w"] == [15.0, 15.0]
    is_named_parameters = make is TOOLS["pytorch_ema by name"]
    assert bare["m.b"] == ([3.0] if is_named_parameters else [30.0]), "what the average has not is the model's"
    assert bare.keys() == {"w", "m.b"}
    if make is not TOOLS["a module within the model"]:
        assert {name.rpartition("module.")[2].removeprefix("_orig_mod."): v.tolist() for name, v in raw.items()} | {
            "steps": 3
        } == {"w": [1.5, 1.5], "m.b": [3.0], "steps": 3}


def test_the_average_of_a_real_averaged_model_is_taken(folder: Path, tmp_path: Path) -> None:
    averages = []
    for number in (1, 2):
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        average = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        )
        average.update_parameters(model)
        averages.append(average.module.state_dict())
        torch.save({"model": model.state_dict(), "model_ema": average.state_dict()}, folder / f"{number}.pth")
    found = load_file(combine_checkpoints(folder, output=tmp_path / "out", use_ema=True) / "model.safetensors")
    assert torch.equal(found["0.weight"], ((averages[0]["0.weight"].double() + averages[1]["0.weight"]) / 2).float())


NONE: dict[str, Callable[[Path], object]] = {
    "a file of the model alone": lambda path: torch.save(state(2), path),
    "settings of an average": lambda path: torch.save({"model": state(2), "ema": {"decay": 0.9}}, path),
    "safetensors": lambda path: save_file(state(2), path.with_suffix(".safetensors")),
}


@pytest.mark.parametrize("save", NONE.values(), ids=NONE)
def test_a_file_without_an_average_is_refused_by_name(
    folder: Path, tmp_path: Path, save: Callable[[Path], object]
) -> None:
    torch.save({"model": state(1), "ema": state(10)}, folder / "epoch-1.pt")
    save(folder / "epoch-2.pt")
    with pytest.raises(CheckpointError, match="must hold an average that was made while training") as caught:
        combine_checkpoints(folder, output=tmp_path / "out", use_ema=True)
    assert caught.value.code == "no-checkpoints"
    assert "epoch-2" in caught.value.message


def test_several_averages_are_refused_by_their_keys(folder: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        torch.save({"model": state(1), "ema_0.99": state(2), "ema_0.9": state(number)}, folder / f"{number}.pt")
    with pytest.raises(
        CheckpointError, match=r"must hold one average .EMA. for `use_ema=`, but `ema_0.99` and `ema_0.9`"
    ):
        combine_checkpoints(folder, output=tmp_path / "out", use_ema=True)


def test_that_an_average_is_there_is_said(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def listen(event: ProgressEvent) -> None:
        if isinstance(event, Warned):
            said.append(event.message)

    for number in (1, 2):
        torch.save(TOOLS["lightning 2.6"](number), folder / f"{number}.ckpt")
    combine_checkpoints(folder, output=tmp_path / "out", progress=listen)
    is_not = "the model under `current_model_state` is used, and the average (EMA) under `state_dict` is not"
    assert said == [f"`1.ckpt` and 1 more: {is_not} (`use_ema=` takes it)."]
    for number in (1, 2):
        torch.save(TOOLS["lightning's stochastic weight averaging"](number), folder / f"{number}.ckpt")
    combine_checkpoints(folder, output=tmp_path / "other", progress=listen)
    assert "under `callbacks / StochasticWeightAveraging / average_model_state` is not used" in said[1]


SAID: dict[str, tuple[Callable[[int], Any], str]] = {
    "beside tensors": (lambda i: {**state(i), "ema": state(10 * i)}, "under `ema` is not (`use_ema=` takes it)"),
    "under another word": (lambda i: {"model": state(i), "polyak": state(10 * i)}, "under `polyak` is not (`use_ema="),
    "within the model": (
        lambda i: {"state_dict": below("net.", state(i)) | below("net_ema.", state(10 * i))},
        "used like the others (`use_ema=` takes them alone)",
    ),
    "two": (
        lambda i: {"model": state(i), "ema_0.9": state(2 * i), "ema_0.99": state(3 * i)},
        "`ema_0.9` and `ema_0.99` each hold one (`use_ema=` takes it where there is one alone)",
    ),
    "torch-ema": (
        lambda i: {"model": state(i), "ema": {"decay": 0.9, "shadow_params": list(state(10 * i).values())}},
        "the average (EMA) under `ema` is not: its tensors have no names",
    ),
}


@pytest.mark.parametrize(("make", "expected"), SAID.values(), ids=SAID)
def test_wherever_an_average_is_that_is_not_used_it_is_said(
    folder: Path, tmp_path: Path, make: Callable[[int], Any], expected: str
) -> None:
    said: list[ProgressEvent] = []
    for number in (1, 2):
        torch.save(make(number), folder / f"{number}.pt")
    combine_checkpoints(folder, output=tmp_path / "out", progress=said.append)
    assert any(isinstance(event, Warned) and expected in event.message for event in said)


def test_a_refusal_of_several_models_says_that_an_average_may_be_taken(folder: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        gan = {"g": state(number), "d": {"x": torch.ones(3) * number}, "g_ema": state(10 * number)}
        torch.save(gan, folder / f"{number}.pt")
    with pytest.raises(CheckpointError, match=r"or take the average \(EMA\) under `g_ema` with `use_ema=`"):
        combine_checkpoints(folder, output=tmp_path / "out")
    found = load_file(combine_checkpoints(folder, output=tmp_path / "ema", use_ema=True) / "model.safetensors")
    assert found["w"].tolist() == [15.0, 15.0]


def test_a_model_with_a_layer_named_like_an_average_is_only_a_model(folder: Path, tmp_path: Path) -> None:
    said: list[ProgressEvent] = []
    for number in (1, 2):
        torch.save(below("net.", state(number)) | {"avg_pool.scale": torch.ones(2)}, folder / f"{number}.pt")
    combine_checkpoints(folder, output=tmp_path / "out", progress=said.append)
    assert not any(isinstance(event, Warned) for event in said)


def test_the_averages_of_an_optimiser_are_none(folder: Path, tmp_path: Path) -> None:
    moments = {"exp_avg": {"w": torch.ones(2)}, "state": {"w": {"exp_avg": torch.ones(2)}}}
    for number in (1, 2):
        torch.save({"model": state(number), "optimizer": moments, "optimizer_avg": moments}, folder / f"{number}.pt")
    with pytest.raises(CheckpointError, match="must hold an average that was made while training"):
        combine_checkpoints(folder, output=tmp_path / "out", use_ema=True)


@pytest.mark.filterwarnings("ignore")
def test_the_average_of_lightnings_own_callback_is_what_it_loads(folder: Path, tmp_path: Path) -> None:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

    class Net(LightningModule):
        def __init__(self, root: Path = Path("data"), activation: type[nn.Module] = nn.ReLU) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

        def training_step(self, batch: list[Tensor]) -> Tensor:
            loss: Tensor = self.net(batch[0]).square().mean()
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.1)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(16, 4)), batch_size=4)
    Trainer(
        max_epochs=2,
        callbacks=[ModelCheckpoint(folder, save_top_k=-1), EMAWeightAveraging(decay=0.5)],
        **{"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
    ).fit(Net(), data)
    files = sorted(folder.glob("*.ckpt"))
    assert len(files) == 2
    for use_ema, key in ((True, "state_dict"), (False, "current_model_state")):
        states = [torch.load(path, weights_only=False)[key] for path in files]
        out = combine_checkpoints(folder, output=tmp_path / f"out-{use_ema}", use_ema=use_ema)
        found = load_file(out / "model.safetensors")
        assert found.keys() == states[0].keys()
        mean = (states[0]["net.0.weight"].double() + states[1]["net.0.weight"].double()) / 2
        assert torch.equal(found["net.0.weight"], mean.float())


def test_use_ema_must_be_true_or_false(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`use_ema` must be True or False, but is 'yes'"):
        combine_checkpoints(folder, output=tmp_path / "out", use_ema="yes")  # type: ignore[arg-type]


def icefalls(averages: list[dict[str, Tensor]], numbers: list[int]) -> dict[str, Tensor]:
    """`average_checkpoints_with_averaged_model` of icefall: the mean of all models after the first file's step, of the
    running means at both."""
    start, end = numbers
    weight_end = end / (end - start)
    weight_start = 1 - weight_end
    return {name: averages[1][name] * weight_end + averages[0][name] * weight_start for name in averages[0]}


def test_running_means_of_icefall_combine_to_the_mean_between_two_steps(folder: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    models = [{"w": torch.randn(50, generator=generator, dtype=torch.float64)} for _ in range(100)]
    means = [{"w": torch.stack([each["w"] for each in models[:n]]).mean(0)} for n in (40, 100)]
    for n, mean in zip((40, 100), means, strict=True):
        torch.save({"model": models[n - 1], "model_avg": mean, "batch_idx_train": n}, folder / f"checkpoint-{n}.pt")
    out = combine_checkpoints(folder, output=tmp_path / "out", use_ema=True, weights=[-40 / 60, 100 / 60])
    found = load_file(out / "model.safetensors")["w"]
    torch.testing.assert_close(found, icefalls(means, [40, 100])["w"], rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(found, torch.stack([each["w"] for each in models[40:]]).mean(0), rtol=1e-12, atol=1e-12)


def test_a_job_takes_the_average_and_its_coefficients_make_the_same_model_again(folder: Path, tmp_path: Path) -> None:
    plain = make_checkpoints(tmp_path / "plain", count=2)
    for path in sorted(plain.glob("*.safetensors")):
        tensors = load_file(path)
        noise = {name: torch.zeros_like(each) for name, each in tensors.items()}
        torch.save({"model": noise, "ema": tensors}, folder / f"{path.stem}.pt")
    copyfile(plain / "config.json", folder / "config.json")
    val_set = make_val_set(tmp_path / "val.npz", count=40)
    outcome = average(folder, val_set, output=tmp_path / "out", use_ema=True, method="uniform")
    expected = load_file(combine_checkpoints(plain, output=tmp_path / "combined") / "model.safetensors")
    again = load_file(
        rebuild(outcome.folder, folder, output=tmp_path / "again", candidate="uniform") / "model.safetensors"
    )
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())
    assert outcome.gain >= 0
