"""Rules that say whether BatchNorm's statistics of a mixture are averaged or recomputed, on many small networks.

    python benchmarks/batch_norm_rules.py

Three networks on 8 x 8 digits (BatchNorm over 1, 4 or 16 positions and more), each with three kinds of checkpoints: a
run from its third epoch on, the tail of a long run, and fine-tunes of one ancestor. Of each, four mixtures; statistics
are recomputed on 4 to 500 images. The excess of a rule is how much higher the test loss is than with the better of the
two ways, which nobody knows beforehand; it is a mean of logarithms. A second table says how many images are enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from measuring import parser_of, save, table_lines
from sklearn.datasets import load_digits
from sources import fashion_mnist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

State = Mapping[str, Tensor]
COUNTS = (4, 8, 16, 32, 64, 128, 256, 500)
"""Images to fit."""
ENOUGH = (16, 64, 256, 512, 1024, 2048, 4096, 16384)


def multilayer() -> nn.Module:
    return nn.Sequential(nn.Flatten(), *_dense(64, 64), *_dense(64, 64), nn.Linear(64, 10))


def _dense(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]


def shallow() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def deep(widths: Sequence[int] = (16, 16, 32, 32, 32), strides: Sequence[int] = (1, 2, 1, 2, 1)) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs, stride in zip((1, *widths), widths, strides, strict=False):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], int]] = {
    "multilayer": (multilayer, 1),
    "shallow": (shallow, 16),
    "deep": (deep, 4),
}
"""Name -> network, and the fewest positions that one of its BatchNorms sees."""
KINDS = ("run", "tail", "fine-tunes")


def train(
    model: nn.Module, images: Tensor, labels: Tensor, rate: float, epochs: int, generator: torch.Generator
) -> list[State]:
    """SGD with momentum; a state after every epoch."""
    optimiser = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    model.train()
    states: list[State] = []
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels), generator=generator).split(32):
            if len(chosen) < 8:
                continue
            loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return states


def checkpoints(kind: str, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> list[State]:
    if kind == "run":
        return train(model, images, labels, 0.05, 12, generator)[2:]
    if kind == "tail":
        return train(model, images, labels, 0.05, 20, generator)[-8:]
    ancestor = train(model, images[:200], labels[:200], 0.05, 4, generator)[-1]
    states = []
    for number in range(6):
        model.load_state_dict(ancestor)
        states.append(train(model, images, labels, (0.02, 0.05, 0.1)[number % 3], 6, generator)[-1])
    return states


def mixtures(K: int, seed: int) -> dict[str, list[float]]:
    moved_K = 0.15 * torch.randn(K, generator=torch.Generator().manual_seed(seed + 77), dtype=torch.float32).double()
    return {
        "uniform": [1 / K] * K,
        "last two": [0.0] * (K - 2) + [0.5, 0.5],
        "first and last": [0.5] + [0.0] * (K - 2) + [0.5],
        "as trained": (1 / K + moved_K - moved_K.mean()).tolist(),
    }


@torch.no_grad()
def load(model: nn.Module, states: Sequence[State], alpha_K: Sequence[float]) -> None:
    """Statistics are averaged: negative weights count as zero."""
    total = sum(max(weight, 0.0) for weight in alpha_K)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            running = "running" in name
            weights = [max(weight, 0.0) / total if running else weight for weight in alpha_K]
            tensor.copy_(sum(weight * state[name].double() for weight, state in zip(weights, states, strict=True)))


@torch.no_grad()
def recompute(model: nn.Module, images: Tensor) -> None:
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    model.eval()
    seen = 0
    for batch in images.tensor_split(math.ceil(len(images) / 128)):
        seen += len(batch)
        for norm in norms:
            norm.train()
            norm.momentum = len(batch) / seen
        model(batch)
    model.eval()


@torch.no_grad()
def loss_of(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    logits = torch.cat([model(part) for part in images.split(1000)])
    return float(F.cross_entropy(logits, labels))


def measure(network: str, kind: str, seed: int) -> Iterator[dict[str, Any]]:
    """One row per mixture and number of images."""
    build, positions = NETWORKS[network]
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    trained_on, fitted, tested = torch.randperm(len(labels), generator=generator).tensor_split([500, 1000])
    model = build()
    states = checkpoints(kind, model, images[trained_on], labels[trained_on], generator)
    for mixture, alpha_K in mixtures(len(states), seed).items():
        for count in COUNTS:
            fit = fitted[:count]
            row: dict[str, Any] = {"network": network, "kind": kind, "seed": seed, "mixture": mixture, "count": count}
            row["values"] = count * positions
            row["few"] = mixture in ("last two", "first and last")
            load(model, states, alpha_K)
            for way in ("averaged", "recomputed"):
                if way == "recomputed":
                    recompute(model, images[fit])
                row[f"{way}_fit"] = loss_of(model, images[fit], labels[fit])
                row[f"{way}_test"] = loss_of(model, images[tested], labels[tested])
            yield row


Row = Mapping[str, Any]

RULES: Mapping[str, Callable[[Row, Row, Row], bool]] = {
    "always averaged": lambda row, uniform, two: False,
    "always recomputed": lambda row, uniform, two: True,
    "from 512 images (old)": lambda row, uniform, two: row["count"] >= 512,
    "from 512 values per channel": lambda row, uniform, two: row["values"] >= 512,
    "lower fit loss, each mixture": lambda row, uniform, two: is_lower(row),
    "lower fit loss, few as the last two": lambda row, uniform, two: is_lower(two if row["few"] else uniform),
    "lower fit loss of uniform": lambda row, uniform, two: is_lower(uniform),
    "the same from 16 images (new)": lambda row, uniform, two: row["count"] >= 16 and is_lower(uniform),
}
"""Name -> whether statistics are recomputed, by the rows of a mixture and of two others of the same checkpoints."""


def is_lower(row: Row) -> bool:
    """On the fit split, with recomputed statistics."""
    return bool(row["recomputed_fit"] <= row["averaged_fit"])


def excesses(rows: Sequence[Row]) -> list[dict[str, float]]:
    """Per row, rule -> logarithm of the test loss over that of the better way."""
    known = {(_job(row), row["mixture"]): row for row in rows}
    found = []
    for row in rows:
        uniform, two = (known[_job(row), mixture] for mixture in ("uniform", "last two"))
        better = min(row["recomputed_test"], row["averaged_test"])
        found.append(
            {
                rule: math.log(row["recomputed_test" if recomputes(row, uniform, two) else "averaged_test"] / better)
                for rule, recomputes in RULES.items()
            }
        )
    return found


def _job(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("network", "kind", "seed", "count"))


def enough(seeds: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Test loss of the uniform average of epochs on Fashion-MNIST, by how many images statistics are recomputed on."""
    (train_images, labels), (test_images, test_labels) = (fashion_mnist(which) for which in ("train", "t10k"))
    images, tested = (each.float()[:, None] / 255 for each in (train_images, test_images))
    builds: dict[str, Callable[[], nn.Module]] = {
        "multilayer, 1 position": lambda: nn.Sequential(
            nn.Flatten(), *_dense(784, 64), *_dense(64, 64), nn.Linear(64, 10)
        ),
        "deep, 4 positions": lambda: deep((8, 16, 32, 64), (2, 2, 2, 2)),
    }
    for name, build in builds.items():
        for seed in seeds:
            torch.manual_seed(seed)
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(labels), generator=generator)
            model = build()
            states = train(model, images[order[:8000]], labels[order[:8000]], 0.02, 8, generator)[1:]
            load(model, states, [1 / len(states)] * len(states))
            losses = {"averaged": loss_of(model, tested, test_labels)}
            for count in ENOUGH:
                parts = [order[8000 + part * count :][:count] for part in range(1 if count > 2048 else 4)]
                found = []
                for part in parts:
                    recompute(model, images[part])
                    found.append(loss_of(model, tested, test_labels))
                losses[str(count)] = sum(found) / len(found)
            yield {"network": name, "seed": seed, "losses": losses}


def tabulate(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Rule -> what is counted in -> excess in percent."""
    parts: dict[str, list[dict[str, float]]] = {}
    for row, found in zip(rows, excesses(rows), strict=True):
        for part in ("all", f"{row['count']} images", row["kind"], row["network"], row["mixture"]):
            parts.setdefault(part, []).append(found)
    order = ["all", *(f"{count} images" for count in COUNTS), *KINDS, *NETWORKS, *mixtures(2, seed=0)]
    return {
        rule: {part: round(100 * sum(each[rule] for each in parts[part]) / len(parts[part]), 2) for part in order}
        for rule in RULES
    }


def markdown(table: Mapping[str, Mapping[str, float]], sizes: Sequence[Mapping[str, Any]], seeds: int) -> str:
    parts = [part for part in next(iter(table.values())) if part not in ("32 images", "128 images")]
    body = [[rule, *(f"{found[part]:.1f}" for part in parts)] for rule, found in table.items()]
    by_size = [
        [size["network"], str(size["seed"]), *(f"{loss:.4f}" for loss in size["losses"].values())] for size in sizes
    ]
    lines = [
        "# BatchNorm's statistics: rules, and how many images are enough",
        "",
        f"`python benchmarks/batch_norm_rules.py`. Excess of the test loss, in percent, over the better of averaged "
        f"and recomputed statistics: the mean over {len(NETWORKS)} networks, {len(KINDS)} kinds of checkpoints, four "
        f"mixtures and {seeds} seeds. With fewer than 512 images the old rule always averages.",
        "",
        *table_lines(["rule", *parts], body),
        "",
        "Test loss of the uniform average of epochs 2 to 8 on Fashion-MNIST, by how many images the statistics are",
        "recomputed on (up to 2,048: the mean of four sets of images).",
        "",
        *table_lines(["network", "seed", "averaged", *map(str, ENOUGH)], by_size),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of(__doc__, quick="one seed", cpu_only=True)
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(1 if arguments.quick else arguments.seeds)
    rows = [row for network in NETWORKS for kind in KINDS for seed in seeds for row in measure(network, kind, seed)]
    sizes = list(enough(range(min(len(seeds), 2))))
    table = tabulate(rows)
    text = markdown(table, sizes, len(seeds))
    print(text)
    print(save("batch-norm-rules", {"excess_percent": table, "enough": sizes}, text, quick=arguments.quick))


if __name__ == "__main__":
    main()
