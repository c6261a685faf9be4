"""What is evaluated, how often, and that evaluating less never picks another model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ladle_engine import EngineError
from ladle_engine.coefficients import Coefficients
from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.evaluation.cache import Evaluations, in_rounds, is_below, round_ends
from ladle_engine.evaluation.evaluate import Evaluation, evaluate
from ladle_engine.evaluation.racing import challenge, is_beaten, race
from ladle_engine.methods import METHODS, fixed
from ladle_engine.pipeline import candidates
from ladle_engine.resume_state import ResumeState
from ladle_engine.tasks.base import Batch, Metric
from ladle_engine.tasks.examples import Examples
from tests.unit.engine.toy import ToyTask

ACCURACY = Metric(name="accuracy", higher_is_better=True, low=0.0, high=1.0)
LOSS = Metric(name="loss", higher_is_better=False)


class TableTask(ToyTask):
    """A model's value on each example stands in a table: column i is checkpoint i's."""

    metrics = (ACCURACY, LOSS)

    def __init__(self, table: Mapping[str, Tensor], batch_size: int = 16) -> None:
        super().__init__(nn.Module, count=len(table["loss"]), batch_size=batch_size)
        self.table = table
        self.seen: list[tuple[int, int]] = []
        """(checkpoint, example), as asked for."""

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        alpha_K: Tensor = model.alpha_K  # type: ignore[assignment]  # a plain attribute of the test's own
        self.seen += [(int(alpha_K.argmax()), index) for index in batch["index"].tolist()]
        return {name: values[batch["index"]] @ alpha_K for name, values in self.table.items()}


class Indices:
    """A data set of nothing but the examples' own numbers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Tensor) -> Batch:
        return {"index": indices}


def one_hot(index: int, K: int) -> Coefficients:
    return Coefficients.whole_model(
        [f"step-{i}" for i in range(K)], ["weight"], torch.eye(K, dtype=torch.float64)[index]
    )


def evaluations_of(task: TableTask, seed: int = 0, state: ResumeState | None = None) -> Evaluations:
    model = nn.Module()

    def load_weights(
        coefficients: Coefficients, recomputed: Mapping[str, Tensor] | None, exactly: bool
    ) -> Mapping[str, Tensor]:
        model.alpha_K = coefficients.alpha_KG[:, 0]  # type: ignore[assignment]
        return {}

    examples = Examples(
        task=task, data=Indices(task.count), indices=torch.arange(task.count), device=torch.device("cpu")
    )
    return Evaluations(
        {"select": examples}, model=model, load_weights=load_weights, approximate=lambda coefficients: None,
        collectives=SingleProcess(), state=state or ResumeState(None, ""), seed=seed,
    )  # fmt: skip


def like_a_run(seed: int, K: int, N: int, spread: float, agreement: float) -> dict[str, Tensor]:
    """Models of one run: hard examples are hard for all (`agreement`), and skill differs by `spread`."""
    generator = torch.Generator().manual_seed(seed)
    hardness_N = torch.randn(N, 1, generator=generator, dtype=torch.float64)
    own_NK = torch.randn(N, K, generator=generator, dtype=torch.float64)
    skill_K = 0.5 + spread * torch.rand(K, generator=generator, dtype=torch.float64)
    margin_NK = skill_K - agreement * hardness_N - (1 - agreement**2) ** 0.5 * own_NK
    return {"accuracy": (margin_NK > 0).to(torch.float64), "loss": nn.functional.softplus(-4 * margin_NK)}


def best_by_all(table: Mapping[str, Tensor], metric: Metric) -> int:
    keys = [
        Evaluation(metrics=(ACCURACY, LOSS), values={name: values[:, i] for name, values in table.items()}).rank_key(
            metric
        )
        for i in range(table["loss"].shape[1])
    ]
    return max(range(len(keys)), key=lambda i: keys[i])


def run_race(table: Mapping[str, Tensor], metric: Metric, seed: int = 0, kin: bool = False) -> tuple[int, TableTask]:
    task, K = TableTask(table), table["loss"].shape[1]
    return race(evaluations_of(task, seed), [one_hot(i, K) for i in range(K)], "select", metric, kin=kin), task


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    K=st.integers(2, 24),
    N=st.integers(2, 6000),
    spread=st.sampled_from([0.0, 0.02, 0.2, 1.0, 3.0]),
    agreement=st.sampled_from([0.0, 0.8, 0.98]),
    metric=st.sampled_from([ACCURACY, LOSS]),
)
def test_the_race_is_won_by_the_one_that_is_best_on_everything(
    seed: int, K: int, N: int, spread: float, agreement: float, metric: Metric
) -> None:
    table = like_a_run(seed, K, N, spread, agreement)
    winner, task = run_race(table, metric, seed)
    assert winner == best_by_all(table, metric)
    assert len(task.seen) == len(set(task.seen)), "no model sees an example twice"


@pytest.mark.parametrize("metric", [ACCURACY, LOSS], ids=["accuracy", "loss"])
def test_many_models_whose_scores_are_spread_take_a_fraction_of_all_evaluations(metric: Metric) -> None:
    table = like_a_run(1, 100, 10_000, spread=2.0, agreement=0.9)
    winner, task = run_race(table, metric)
    assert winner == best_by_all(table, metric)
    assert len(task.seen) < 0.4 * 100 * 10_000


@pytest.mark.parametrize("metric", [ACCURACY, LOSS], ids=["accuracy", "loss"])
def test_kin_take_little_and_the_one_that_is_picked_is_nearly_the_best(metric: Metric) -> None:
    """Over many races, less is lost than a standard error of the difference between two of them on the whole split."""
    K, N, seen, lost, errors = 12, 3000, 0, 0.0, 0.0
    for seed in range(20):
        table = like_a_run(seed, K, N, spread=0.1, agreement=0.98)
        winner, task = run_race(table, metric, seed, kin=True)
        best = best_by_all(table, metric)
        behind = (table[metric.name][:, best] - table[metric.name][:, winner]) * (1 if metric is ACCURACY else -1)
        other = table[metric.name][:, best] - table[metric.name][:, (best + 1) % K]
        seen, lost, errors = seen + len(task.seen), lost + float(behind.mean()), errors + float(other.std()) / N**0.5
        assert len(task.seen) == len(set(task.seen)), "no model sees an example twice"
    assert seen < 0.35 * 20 * K * N
    assert 0 <= lost < errors


@given(seed=st.integers(0, 2**32), K=st.integers(2, 12), N=st.integers(2, 256))
@settings(max_examples=20, deadline=None)
def test_on_few_examples_kin_are_decided_as_others_are(seed: int, K: int, N: int) -> None:
    table = like_a_run(seed, K, N, spread=0.2, agreement=0.8)
    assert run_race(table, ACCURACY, seed, kin=True)[0] == best_by_all(table, ACCURACY)


def test_a_challenge_ends_once_the_contender_is_behind_and_never_while_it_is_level() -> None:
    table = like_a_run(6, 3, 3000, spread=0.0, agreement=0.98)
    table["accuracy"][:, 1] = table["accuracy"][:, 0]
    table["accuracy"][::8, 2] = 0.0
    task = TableTask(table)
    evaluations = evaluations_of(task)
    bar = evaluations.whole(one_hot(0, 3), "select", ACCURACY)
    level = challenge(evaluations, one_hot(1, 3), "select", bar, ACCURACY)
    assert level is not None
    assert len(level) == 3000
    assert level.score(ACCURACY) == bar.score(ACCURACY)
    assert challenge(evaluations, one_hot(2, 3), "select", bar, ACCURACY) is None
    assert len([index for model, index in task.seen if model == 2]) == evaluations.rounds["select"][0]


def test_equal_metrics_are_decided_by_the_loss_and_then_by_order() -> None:
    table = like_a_run(2, 1, 2000, spread=0.0, agreement=0.9)
    same = {name: values.repeat(1, 4) for name, values in table.items()}
    assert run_race(same, ACCURACY)[0] == 0
    same["loss"][:, 2] -= 1e-3
    assert run_race(same, ACCURACY)[0] == 2


class OwnColumn(TableTask):
    """For tables with NaN and infinity, which would spoil every mixture: only the largest weight's column counts."""

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        own = int(model.alpha_K.argmax())  # type: ignore[operator, arg-type]
        self.seen += [(own, index) for index in batch["index"].tolist()]
        return {name: values[batch["index"], own] for name, values in self.table.items()}


@pytest.mark.parametrize("kin", [False, True], ids=["certain", "kin"])
@pytest.mark.parametrize("position", [0, 1500, 5999])
def test_what_a_model_had_beaten_is_back_when_that_model_turns_out_to_be_broken(position: int, kin: bool) -> None:
    table = like_a_run(3, 3, 6000, spread=0.0, agreement=0.9)
    table["accuracy"][:, 1], table["accuracy"][:, 2] = 1.0, 0.0
    task = OwnColumn(table)
    evaluations = evaluations_of(task)
    table["loss"][evaluations._splits["select"].indices[position], 1] = torch.nan
    # Mixtures, for a checkpoint of its own would be refused.
    mixtures = [
        Coefficients.whole_model(("a", "b", "c"), ["weight"], 0.8 * torch.eye(3, dtype=torch.float64)[i] + 0.2 / 3)
        for i in range(3)
    ]
    assert race(evaluations, mixtures, "select", ACCURACY, kin=kin) == 0
    assert len(set(task.seen)) == len(task.seen)


def test_a_single_checkpoint_with_a_loss_that_is_not_finite_is_refused_by_name() -> None:
    table = like_a_run(4, 3, 100, spread=0.0, agreement=0.9)
    table["loss"][7, 1] = torch.nan
    task = OwnColumn(table)
    with pytest.raises(EngineError, match="that of `step-1` is nan on the select split") as caught:
        race(evaluations_of(task), [one_hot(i, 3) for i in range(3)], "select", ACCURACY)
    assert caught.value.code == "non-finite-loss"


def test_a_value_outside_the_range_that_its_task_declares_is_refused() -> None:
    table = like_a_run(5, 2, 64, spread=0.0, agreement=0.9)
    table["accuracy"] *= 100
    with pytest.raises(EngineError, match=r"`accuracy` must lie within 0 and 1, .* 0 and 100"):
        run_race(table, ACCURACY)


def test_few_examples_and_rare_large_losses_beat_nobody() -> None:
    """The contender is a little worse on most examples, and much better on the rare ones that were not drawn yet."""
    generator = torch.Generator().manual_seed(0)
    leader = 0.01 * torch.rand(256, generator=generator, dtype=torch.float64)
    assert not is_beaten(-(leader + 1e-4), -leader, 10_000)
    right = torch.ones(256, dtype=torch.float64)
    wrong = right.clone()
    wrong[:4] = 0
    assert not is_beaten(wrong, right, 10_000)
    assert is_beaten(1 - right, right, 10_000)
    assert not is_beaten(right, right, 10_000)


def test_a_bar_that_cannot_be_reached_any_more_is_one_for_certain() -> None:
    def accuracy(*values: float) -> Evaluation:
        return Evaluation(metrics=(ACCURACY,), values={"accuracy": torch.tensor(values, dtype=torch.float64)})

    bar = accuracy(1, 1, 1, 0, 0)
    assert not is_below(accuracy(0, 0), bar, ACCURACY), "three right ones would tie"
    assert is_below(accuracy(0, 0, 0), bar, ACCURACY)
    assert not is_below(accuracy(0, 0, 0), bar, Metric(name="accuracy", higher_is_better=True)), "no range, no limit"
    assert is_below(accuracy(0, 0, 0, 1, 1), bar, Metric(name="accuracy", higher_is_better=True))
    falling = Metric(name="accuracy", higher_is_better=False, low=0.0)
    assert is_below(accuracy(2, 1.5), bar, falling)
    assert not is_below(accuracy(2, 1), bar, falling)


@pytest.mark.parametrize(("total", "batch_size"), [(2, 8), (511, 8), (512, 8), (5000, 100), (25_000, 128)])
def test_rounds_are_whole_batches_few_and_random_samples_read_in_order(total: int, batch_size: int) -> None:
    ends = round_ends(total, batch_size)
    assert ends[-1] == total
    assert all(end % batch_size == 0 and 2 * end <= total for end in ends[:-1])
    assert len(ends) <= 5
    examples = Examples(
        task=ToyTask(nn.Module, batch_size=batch_size), data=Indices(total), indices=torch.arange(total) + 7,
        device=torch.device("cpu"),
    )  # fmt: skip
    ordered = in_rounds(examples, [ends], seed=1).indices
    assert torch.equal(ordered.sort().values, examples.indices)
    for start, end in zip((0, *ends), ends, strict=False):
        assert bool((ordered[start:end].diff() > 0).all())
    if len(ends) > 1:
        assert not torch.equal(ordered, examples.indices)
        assert torch.equal(in_rounds(examples, [ends], seed=1).indices, ordered)


def test_an_evaluation_is_extended_and_survives_in_one_file(tmp_path: Path) -> None:
    table = like_a_run(6, 5, 3000, spread=0.5, agreement=0.9)
    task = TableTask(table)
    evaluations = evaluations_of(task, state=ResumeState(tmp_path, "f"))
    contenders = [one_hot(i, 5) for i in range(5)]
    winner = race(evaluations, contenders, "select", ACCURACY)
    whole = evaluations.whole(contenders[0], "select", LOSS)
    order = evaluations._splits["select"].indices
    assert torch.equal(whole.values["loss"], table["loss"][order, 0])
    evaluations.save()
    assert [path.name for path in tmp_path.rglob("*.pt")] == ["evaluations.pt"]
    again = TableTask(table)
    resumed = evaluations_of(again, state=ResumeState(tmp_path, "f"))
    assert race(resumed, contenders, "select", ACCURACY) == winner
    assert torch.equal(resumed.whole(contenders[0], "select", LOSS).values["loss"], whole.values["loss"])
    assert not again.seen
    assert len(set(task.seen)) == len(task.seen)


class Ranks:
    """One of several ranks, alone: notes what it would send, and is given what all would."""

    def __init__(self, rank: int, size: int, sent: list[list[Tensor]], everything: Sequence[Tensor] = ()) -> None:
        self.rank, self.size = rank, size
        self.sent, self.everything = sent, iter(everything)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        raise AssertionError("evaluating sums nothing")

    def all_gather(self, shard: Tensor, lengths: Sequence[int]) -> Tensor:
        assert len(shard) == lengths[self.rank]
        self.sent[self.rank].append(shard)
        return next(self.everything, torch.zeros(sum(lengths), dtype=shard.dtype))

    def translate_collective_errors(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 7, 16, 17, 33, 100])
def test_ranks_call_the_model_equally_often_and_get_the_values_of_one_process(size: int, count: int) -> None:
    table = {name: torch.arange(count, dtype=torch.float64)[:, None] for name in ("accuracy", "loss")}
    calls: list[int] = []

    class Counting(ToyTask):
        metrics = (ACCURACY, LOSS)

        def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
            calls[-1] += 1
            return {name: values[batch["index"], 0] for name, values in table.items()}

    examples = Examples(
        task=Counting(nn.Module, batch_size=16), data=Indices(count), indices=torch.arange(count),
        device=torch.device("cpu"),
    )  # fmt: skip
    sent: list[list[Tensor]] = [[] for _ in range(size)]
    for rank in range(size):
        calls.append(0)
        evaluate(nn.Module(), examples, Ranks(rank, size, sent))
    assert len(set(calls)) == 1
    assert calls[0] == -(-count // (16 * size)), "one after the other takes each a batch"
    everything = [torch.cat([sent[rank][m] for rank in range(size)]) for m in range(2)]
    calls.append(0)
    found = evaluate(nn.Module(), examples, Ranks(0, size, [[] for _ in range(size)], everything))
    assert torch.equal(found.values["loss"], table["loss"][:, 0])


# Which k --------------------------------------------------------------------------------------------------------------


class Judge:
    """A context whose race is decided by a function of k."""

    def __init__(self, K: int, score: Callable[[int], float]) -> None:
        self.checkpoints = SimpleNamespace(names=tuple(f"step-{i}" for i in range(K)))
        self.score = score
        self.tried: set[int] = set()

    def coefficients(self, alpha_K: Tensor) -> Coefficients:
        return Coefficients.whole_model(self.checkpoints.names, ["weight"], alpha_K)

    def race(self, contenders: list[Coefficients], *, method: str) -> int:
        ks = [int((contender.alpha_KG > 0).sum()) for contender in contenders]
        self.tried |= set(ks)
        return max(range(len(ks)), key=lambda i: self.score(ks[i]))


@pytest.mark.parametrize("K", [2, 3, 32])
def test_of_few_checkpoints_every_k_from_two_is_tried(K: int) -> None:
    judge = Judge(K, lambda k: -k)
    choice = METHODS["last-k"].choose(judge, fixed.LastKOptions())  # type: ignore[arg-type]
    assert choice.label == "last-k (k = 2)"
    assert judge.tried == set(range(2, K + 1))


@pytest.mark.parametrize("peak", [2, 3, 47, 200, 299, 300])
def test_of_many_checkpoints_a_grid_is_refined_around_its_best_k(peak: int) -> None:
    judge = Judge(300, lambda k: -abs(k - peak))
    choice = METHODS["last-k"].choose(judge, fixed.LastKOptions())  # type: ignore[arg-type]
    assert choice.label == f"last-k (k = {peak})"
    assert len(judge.tried) < 100


def test_the_second_best_of_one_checkpoint_is_refused() -> None:
    with pytest.raises(
        EngineError, match="`second-best` must have at least 2 checkpoints, but there is only 1"
    ) as caught:
        METHODS["second-best"].choose(Judge(1, float), None)  # type: ignore[arg-type]
    assert caught.value.code == "too-few-checkpoints"
    assert caught.value.code in candidates.LEFT_OUT
