"""What every script here does for its tool: write a folder, say what the tool itself loads from it, use Ladle's result.

`SCRIPT FOLDER MEAN` trains a tiny model, saves it as the tool does, writes into the file `MEAN` the mean of what the
tool's own loading makes of each checkpoint, and prints `written`. Then it reads the path of Ladle's result, and loads
that in the tool.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

State = Mapping[str, Tensor]


def main(
    write: Callable[[Path], None],
    states: Callable[[Path], Sequence[State]],
    use: Callable[[Path, Path], None],
    weights: Sequence[float] | None = None,
) -> None:
    folder, mean_file = Path(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(0)
    write(folder)
    save_file(mean(states(folder), weights), mean_file)
    print("written", flush=True)
    if result := sys.stdin.readline().strip():
        use(folder, Path(result))


def mean(states: Sequence[State], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """In float64, rounded once; all count the same without `weights`. Integers are those of the last."""
    last = states[-1]
    assert all(state.keys() == last.keys() for state in states)
    shares = weights or [1 / len(states)] * len(states)
    found = {}
    for name, value in last.items():
        if value.is_floating_point():
            value = torch.stack([share * each[name].double() for share, each in zip(shares, states, strict=True)]).sum(
                0
            )
        found[name] = value.to(last[name].dtype).clone().contiguous()
    return found


def result_of(folder: Path) -> dict[str, Tensor]:
    """What Ladle wrote."""
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def same(loaded: State, result: State) -> None:
    """Raises `AssertionError` unless the tool's model is Ladle's result bit for bit."""
    missing = [name for name in result if name not in loaded]
    assert not missing, missing
    for name, value in result.items():
        assert torch.equal(loaded[name], value), name


def loads(model: nn.Module, folder: Path) -> None:
    """Whether a network takes the result of a folder, and then holds just that."""
    result = result_of(folder)
    model.load_state_dict(result)
    same(model.state_dict(), result)


def small_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 1, 8, 8), torch.randint(0, 3, (8,))


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    images, labels = batch()
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
