"""Tensors that are left out of the average: `skip_tensors` and `take_from`, compared with what is made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ladle_engine import CheckpointError, EngineError, average, candidate_state, combine_checkpoints, rebuild
from ladle_engine.checkpoints import discover
from ladle_engine.progress import Warned
from ladle_engine.tasks.examples import split
from tests.unit.engine.toy import TiedNet, ToyData, ToyTask, norm_net, plain_net, write_checkpoints

State = Mapping[str, Tensor]


def state(value: float, rows: int = 4, **more: Tensor) -> dict[str, Tensor]:
    """A small language model: only the vocabulary's size may differ."""
    return {
        "model.embed.weight": torch.arange(rows * 2.0).view(rows, 2) * value,
        "model.layers.0.weight": torch.full((2, 2), value),
        "model.norm.count": torch.tensor(int(value)),
        "lm_head.weight": torch.arange(rows * 2.0).view(rows, 2) - value,
        **more,
    }


def folder_of(folder: Path, *states: State, prefix: str = "") -> Path:
    folder.mkdir(parents=True)
    for number, each in enumerate(states, start=1):
        save_file({prefix + name: tensor for name, tensor in each.items()}, folder / f"step-{number}.safetensors")
    return folder


def combined(folder: Path, **options: Any) -> dict[str, Tensor]:
    output = combine_checkpoints(folder, output=folder.parent / f"out-{len(list(folder.parent.iterdir()))}", **options)
    return load_file(output / "model.safetensors")


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        combine_checkpoints(folder, output=folder.parent / "refused", **options)
    assert caught.value.code == "invalid-checkpoint-options", caught.value
    assert not (folder.parent / "refused").exists()
    return caught.value.message


VOCABULARY = ["model.embed.*", "lm_head"]


def test_what_is_skipped_is_the_last_checkpoints_whatever_shape_the_others_have_it_in(tmp_path: Path) -> None:
    made = [state(1.0, rows=3), state(2.0), state(6.0, rows=5)]
    model = combined(folder_of(tmp_path / "in", *made), skip_tensors=VOCABULARY)
    assert model.keys() == made[0].keys()
    for name in ("model.embed.weight", "lm_head.weight", "model.norm.count"):
        assert torch.equal(model[name], made[2][name]), name
    assert model["model.layers.0.weight"].tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_what_is_taken_from_a_checkpoint_is_that_checkpoints(tmp_path: Path) -> None:
    made = [state(1.0, rows=3), state(2.0, rows=5), state(6.0)]
    folder = folder_of(tmp_path / "in", *made)
    model = combined(
        folder,
        skip_tensors="model.norm*",
        take_from={"step-1.safetensors": "model.embed", "step-2.safetensors": "lm_*"},
    )
    assert torch.equal(model["model.embed.weight"], made[0]["model.embed.weight"])
    assert torch.equal(model["lm_head.weight"], made[1]["lm_head.weight"])
    assert int(model["model.norm.count"]) == 6
    assert model["model.layers.0.weight"].tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_it_is_taken_whatever_the_weights_are(tmp_path: Path) -> None:
    made = [state(1.0), state(2.0, rows=5), state(6.0)]
    folder = folder_of(tmp_path / "in", *made)
    take_from = {"step-2.safetensors": VOCABULARY}
    for weights in ([1.0, 0.0, 0.0], [0.5, 0.0, 0.5]):
        model = combined(folder, weights=weights, take_from=take_from)
        assert torch.equal(model["lm_head.weight"], made[1]["lm_head.weight"])
        assert float(model["model.layers.0.weight"][0, 0]) == weights[0] + 6 * weights[2]


def test_the_others_may_lack_it_and_what_only_they_have_is_not_in_the_result(tmp_path: Path) -> None:
    first, second, last = state(1.0), state(3.0), state(2.0)
    del first["lm_head.weight"]
    second["old_head.weight"] = torch.ones(7)
    folder = folder_of(tmp_path / "in", first, second, last)
    model = combined(folder, skip_tensors=["lm_head.*", "old_head.*"])
    assert model.keys() == last.keys()
    assert torch.equal(model["lm_head.weight"], last["lm_head.weight"])
    assert model["model.layers.0.weight"].unique().tolist() == [2.0]


def test_what_the_last_one_lacks_can_be_taken_from_another_and_gets_its_prefix(tmp_path: Path) -> None:
    made = [state(1.0, head=torch.tensor([1.5, 2.5])), state(3.0)]
    folder = folder_of(tmp_path / "in", *made, prefix="module.")
    model = combined(folder, take_from={"step-1.safetensors": "head"})
    assert model.keys() == {f"module.{name}" for name in made[0]}
    assert model["module.head"].tolist() == [1.5, 2.5]
    assert model["module.model.layers.0.weight"].unique().tolist() == [2.0]


def test_names_may_be_written_as_in_the_file_or_without_wrappers(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", state(1.0, rows=3), state(3.0), prefix="module.")
    for globs in (["module.model.embed.weight", "module.lm_head"], ["model.embed", "lm_head.weight"]):
        assert combined(folder, skip_tensors=globs)["module.model.layers.0.weight"].unique().tolist() == [2.0]


def test_a_whole_name_takes_that_tensor_alone(tmp_path: Path) -> None:
    more = [
        {"w.weight": torch.ones(2) * n, "w.weight.scale": torch.ones(2) * n, "[a]*": torch.ones(2) * n} for n in (1, 3)
    ]
    folder = folder_of(tmp_path / "in", *more)
    model = combined(folder, skip_tensors=["w.weight", "[a]*"])
    assert (model["w.weight"][0], model["w.weight.scale"][0], model["[a]*"][0]) == (3.0, 2.0, 3.0)


def test_a_checkpoint_may_be_named_by_its_path_wherever_the_job_runs(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", state(1.0), state(3.0))
    for name in (
        folder / "step-1.safetensors",
        "in/step-1.safetensors",
        "./in/step-1.safetensors",
        "step-1.safetensors/",
    ):
        assert combined(folder, take_from={name: "model.embed"})["model.embed.weight"][1, 1] == 3.0


def test_config_and_tokenizer_belong_to_what_gives_the_model_its_shape(tmp_path: Path) -> None:
    for number, rows in ((1, 5), (2, 4)):
        home = tmp_path / "in" / f"checkpoint-{number}"
        home.mkdir(parents=True)
        save_file(state(float(number), rows=rows), home / "model.safetensors")
        (home / "config.json").write_text(json.dumps({"vocab_size": rows}))
    found = discover(tmp_path / "in", take_from={"checkpoint-1": VOCABULARY})
    assert found.config == {"vocab_size": 5}
    combine_checkpoints(tmp_path / "in", output=tmp_path / "out", take_from={"checkpoint-1": VOCABULARY})
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"vocab_size": 5}
    assert discover(tmp_path / "in", skip_tensors=VOCABULARY).config == {"vocab_size": 4}


def test_it_is_told_what_is_left_out_and_from_where_it_is_taken(tmp_path: Path) -> None:
    said: list[str] = []
    combine_checkpoints(
        folder_of(tmp_path / "in", state(1.0, old=torch.ones(2)), state(3.0)),
        output=tmp_path / "out",
        skip_tensors=["model.embed*", "old"],
        take_from={"step-1.safetensors": "lm_head"},
        progress=lambda event: said.append(event.message) if isinstance(event, Warned) else None,
    )
    assert said == [
        "Left out of the average: `lm_head.weight`, taken from `step-1.safetensors`; `model.embed.weight`, taken from "
        "`step-2.safetensors`; `old`, which the result lacks."
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"skip_tensors": "lm_haed*"}, "no tensor matches `lm_haed*`. Did you mean `lm_head`?"),
        ({"skip_tensors": "embed"}, "Did you mean `model.embed`?"),
        ({"skip_tensors": "xyz"}, "They are called `model.norm.count`, "),
        ({"take_from": {"step-3.safetensors": "lm_head"}}, "`step-3.safetensors` does not. Did you mean `step-"),
        ({"take_from": {"step-1.safetensors": "old"}}, "`take_from=` for `step-1.safetensors` must match tensors"),
        ({"skip_tensors": "*"}, "must leave tensors to average, but they take all 5"),
        ({"skip_tensors": ["model*", "lm_head.weight", "old"]}, "must leave tensors to average"),
        (
            {"skip_tensors": "lm_head*", "take_from": {"step-1.safetensors": "*head*"}},
            "`lm_head.weight` is taken twice: by `skip_tensors=` (`lm_head*`) and by `take_from=`",
        ),
        (
            {"take_from": {"step-1.safetensors": "lm_head*", "step-2.safetensors": "*head*"}},
            "`lm_head.weight` is taken twice: by `take_from=` for `step-1.safetensors`",
        ),
        ({"take_from": {"step-1.safetensors": ["lm_head", "*"]}}, "but it lacks `old`"),
        ({"like": "step-7.safetensors"}, "`like=` must name a checkpoint"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_with_a_near_name(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    folder = folder_of(tmp_path / "in", state(1.0), state(3.0, old=torch.ones(2)))
    assert words in refused(folder, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"skip_tensors": ""},
        {"skip_tensors": ["a", ""]},
        {"skip_tensors": 3},
        {"take_from": "a"},
        {"take_from": {"a": ""}},
        {"take_from": {3: "a"}},
        {"like": 3},
    ],
    ids=str,
)
def test_an_argument_that_breaks_its_own_rule_is_named(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = folder_of(tmp_path / "in", state(1.0), state(3.0))
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
        combine_checkpoints(folder, output=tmp_path / "out", **options)


def test_no_options_are_no_choice(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", state(1.0), state(3.0))
    assert torch.equal(
        combined(folder, skip_tensors=[], take_from={})["lm_head.weight"], combined(folder)["lm_head.weight"]
    )


def test_checkpoints_that_differ_only_in_what_is_left_out_are_the_same(tmp_path: Path) -> None:
    made = [{"w": torch.ones(2), "head": torch.ones(2) * n} for n in (1, 2)]
    with pytest.raises(EngineError) as caught:
        average(
            folder_of(tmp_path / "in", *made),
            output=tmp_path / "out",
            model=lambda: _Two(),
            loss=lambda model, batch: model(batch),
            data=[torch.ones(4, 2)] * 4,
            skip_tensors="head",
        )
    assert caught.value.code == "identical-checkpoints"
    assert "but for the tensors that are left out" in caught.value.message


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.head = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return ((x * self.w).sum(dim=1) - self.head.sum()).square()


# What a trained average does with them


HEAD = "2.*"
NAMES = tuple(f"step-{number}.safetensors" for number in range(3))
TRAINED = {"methods": ["uniform", "greedy-soup", "twa", "last-k"], "options": {"twa": {"steps": 8}}}


def other_heads(folder: Path, build: Callable[[], nn.Module] = plain_net, count: int = 4) -> list[dict[str, Tensor]]:
    """The checkpoints' tensors. The first has a head of another shape, the second none."""
    write_checkpoints(folder, build, count=count)
    files = sorted(folder.iterdir())
    states = [load_file(path) for path in files]
    head = next(name for name in reversed(states[0]) if name.endswith("weight") and states[0][name].dim() == 2)
    module = head.rpartition(".")[0]
    states[0][f"{module}.weight"], states[0][f"{module}.bias"] = torch.ones(3, 8), torch.ones(3)
    del states[1][f"{module}.weight"], states[1][f"{module}.bias"]
    for path, each in zip(files, states, strict=True):
        save_file(each, path)
    return states


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "streamed"])
def test_an_average_is_judged_and_written_with_what_is_taken(tmp_path: Path, precision: str) -> None:
    states = other_heads(tmp_path / "in")
    outcome = average(
        tmp_path / "in",
        "data",
        output=tmp_path / "out",
        task=ToyTask(plain_net),
        method_options=TRAINED,
        precision=precision,
        skip_tensors=HEAD,
    )
    uniform = candidate_state(tmp_path / "out", tmp_path / "in", "uniform")
    for name in ("0.weight", "0.bias"):
        mean = torch.stack([each[name].double() for each in states]).mean(dim=0).float()
        assert torch.equal(uniform[name], mean), name
    for name in ("2.weight", "2.bias"):
        assert torch.equal(uniform[name], states[3][name]), name
    scores = {score.method: score.select["loss"] for score in outcome.candidates}
    for method in scores:
        model = with_state(plain_net, candidate_state(tmp_path / "out", tmp_path / "in", method))
        assert scores[method] == pytest.approx(judged(model), rel=1e-5), method
    saved = json.loads((tmp_path / "out" / "coefficients.json").read_text())
    assert saved["taken_from"] == {"step-3.safetensors": ["2.bias", "2.weight"]}
    assert all(each["group_of"].keys() == {"0.weight", "0.bias"} for each in saved["candidates"].values())
    assert is_rebuilt(tmp_path)


def judged(model: nn.Module) -> float:
    """The loss on the select split of the toy's 64 examples."""
    select = split(64, 0.5, 0)[1]
    with torch.no_grad():
        return float(ToyTask().evaluate(model.eval(), ToyData(64).batch(select))["loss"].mean())


def is_rebuilt(root: Path) -> bool:
    """Whether the coefficients give the same model again, bit for bit."""
    rebuild(root / "out", root / "in", output=root / "again")
    one, again = (load_file(root / name / "model.safetensors") for name in ("out", "again"))
    return one.keys() == again.keys() and all(torch.equal(one[name], again[name]) for name in one)


def with_state(build: Callable[[], nn.Module], state: State) -> nn.Module:
    model = build()
    model.load_state_dict(dict(state))
    return model


def test_a_single_checkpoint_is_judged_with_its_own_where_it_fits(tmp_path: Path) -> None:
    states = other_heads(tmp_path / "in")
    taken = {name: states[3][name] for name in ("2.weight", "2.bias")}
    outcome = average(
        tmp_path / "in",
        "data",
        output=tmp_path / "out",
        task=ToyTask(plain_net),
        method_options=TRAINED,
        skip_tensors=HEAD,
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    left_out = report["left_out"]
    assert left_out["taken_from"] == {"step-3.safetensors": ["2.bias", "2.weight"]}
    assert left_out["dropped"] == []
    has_its_own = report["winner"] == "best" and outcome.best_checkpoint in ("step-2.safetensors", "step-3.safetensors")
    assert left_out["in_result"] == outcome.tensors_taken == ({} if has_its_own else {"step-3.safetensors": 2})
    assert [each["not_its_own"] for each in report["checkpoints"]] == [["2.bias", "2.weight"]] * 2 + [[], []]
    for number, each in enumerate(report["checkpoints"]):
        model = with_state(plain_net, {**states[number], **taken} if number < 2 else states[number])
        assert each["select"]["means"]["loss"] == pytest.approx(judged(model), rel=1e-5), number
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- `2.bias`, `2.weight`: from `step-3.safetensors`" in card
    assert "but for `step-0.safetensors`, `step-1.safetensors`: there they are absent or have another shape" in card


def test_the_best_checkpoint_stays_as_it_is_whatever_is_taken_for_averages(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "in", plain_net, count=3)
    bad = load_file(tmp_path / "in" / "step-0.safetensors")
    save_file({**bad, "2.weight": bad["2.weight"] + 50.0}, tmp_path / "in" / "step-0.safetensors")
    outcome = average(
        tmp_path / "in",
        "data",
        output=tmp_path / "out",
        task=ToyTask(plain_net),
        method_options=TRAINED,
        take_from={"step-0.safetensors": "2.weight"},
    )
    assert outcome.method == "best"
    best = load_file(tmp_path / "in" / outcome.best_checkpoint)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[name], best[name]) for name in best)
    assert "so this is that checkpoint, unchanged" in (tmp_path / "out" / "README.md").read_text()
    assert is_rebuilt(tmp_path)


def test_one_that_has_none_that_fits_is_written_with_what_is_taken(tmp_path: Path) -> None:
    states = other_heads(tmp_path / "in", count=3)
    average(
        tmp_path / "in",
        "data",
        output=tmp_path / "out",
        task=ToyTask(plain_net),
        method="given",
        method_options={"coefficients": dict.fromkeys(NAMES, 0.0) | {NAMES[1]: 1.0}},
        skip_tensors=HEAD,
    )
    given = candidate_state(tmp_path / "out", tmp_path / "in", "given")
    assert torch.equal(given["0.weight"], states[1]["0.weight"])
    assert torch.equal(given["2.weight"], states[2]["2.weight"])


def test_batch_norms_statistics_that_are_left_out_are_not_made_anew(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "in", norm_net, count=3)
    last = load_file(tmp_path / "in" / "step-2.safetensors")
    outcome = average(
        tmp_path / "in",
        "data",
        output=tmp_path / "out",
        task=ToyTask(norm_net),
        method_options=TRAINED,
        skip_tensors="1",
    )
    for score in outcome.candidates:
        made = candidate_state(tmp_path / "out", tmp_path / "in", score.method)
        if score.method != "best":
            assert all(torch.equal(made[name], last[name]) for name in last if name.startswith("1.")), score.method
        assert score.select["loss"] == pytest.approx(judged(with_state(norm_net, made)), rel=1e-4), score.method


def test_halves_of_what_the_model_ties_are_left_out_together_or_not_at_all(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "in", TiedNet, count=3)

    def run(**options: Any) -> Any:
        return average(
            tmp_path / "in",
            "data",
            output=tmp_path / f"out-{len(list(tmp_path.iterdir()))}",
            task=ToyTask(TiedNet),
            method_options=TRAINED,
            **options,
        )

    for options in (
        {"skip_tensors": "second"},
        {"skip_tensors": "second", "take_from": {"step-0.safetensors": "first"}},
    ):
        with pytest.raises(CheckpointError, match=r"`first\.weight`") as caught:
            run(**options)
        assert caught.value.code == "invalid-checkpoint-options"
        assert "`second.weight`" in caught.value.message
    outcome = run(skip_tensors=["first", "second"])
    uniform = candidate_state(outcome.folder, tmp_path / "in", "uniform")
    assert torch.equal(uniform["first.weight"], load_file(tmp_path / "in" / "step-2.safetensors")["first.weight"])


def test_a_job_goes_on_where_it_ended_and_another_choice_begins_anew(tmp_path: Path) -> None:
    other_heads(tmp_path / "in")

    def losses_taken(**options: Any) -> int:
        task = ToyTask(plain_net)
        output = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        average(
            tmp_path / "in",
            "data",
            output=output,
            task=task,
            method_options=TRAINED,
            state_dir=tmp_path / "state",
            **options,
        )
        return task.losses_taken

    first = losses_taken(skip_tensors=HEAD)
    assert losses_taken(skip_tensors=HEAD) < first, "what was trained is not trained again"
    assert losses_taken(take_from={"step-2.safetensors": HEAD}) == first


def test_what_is_left_out_may_not_be_averaged_at_all(tmp_path: Path) -> None:
    """Codes of quantised weights that differ are refused, unless they are left out."""
    made = [{"w": torch.ones(4) * n, "q": torch.full((4, 4), n, dtype=torch.int8)} for n in (1, 3)]
    folder = folder_of(tmp_path / "in", *made)
    with pytest.raises(CheckpointError, match="codes"):
        combine_checkpoints(folder, output=tmp_path / "refused")
    model = combined(folder, skip_tensors="q")
    assert (model["q"][0, 0], model["w"][0]) == (3, 2.0)


def test_what_is_not_finite_may_be_left_out_only_where_it_is_not_used(tmp_path: Path) -> None:
    made = [{"w": torch.ones(4) * n, "bad": torch.full((n,), float("nan") if n == 1 else 1.0)} for n in (1, 3)]
    folder = folder_of(tmp_path / "in", *made)
    assert combined(folder, skip_tensors="bad")["bad"].tolist() == [1.0] * 3
    with pytest.raises(CheckpointError, match=r"`bad` in `step-1\.safetensors` holds 1 NaN"):
        combine_checkpoints(folder, output=tmp_path / "out", take_from={"step-1.safetensors": "bad"})


# As real tools leave them


def small_gpt2(folder: Path, vocabulary: int, seed: int) -> None:
    """A fine-tune of one model, its vocabulary resized as transformers does it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    model.resize_token_embeddings(vocabulary)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)


def test_a_language_model_with_added_tokens_is_averaged_and_loads_again(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for step, vocabulary in ((1, 20), (2, 23), (3, 23)):
        small_gpt2(tmp_path / "in" / f"checkpoint-{step}", vocabulary, seed=step)
    with pytest.raises(CheckpointError, match="tokens were added to the vocabulary") as caught:
        combine_checkpoints(tmp_path / "in", output=tmp_path / "refused")
    assert "`transformer.wte`" in caught.value.message
    outcome = average(
        tmp_path / "in",
        output=tmp_path / "out",
        model=lambda: transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "in" / "checkpoint-3"),
        loss=lambda model, batch: model(input_ids=batch, labels=batch).loss,
        data=list(torch.randint(0, 23, (16, 4, 6), generator=torch.Generator().manual_seed(0))),
        method_options={"methods": ["uniform", "twa"], "options": {"twa": {"steps": 3}}},
        skip_tensors="transformer.wte",
    )
    assert {score.method for score in outcome.candidates} == {"best", "uniform", "twa"}
    rebuild(tmp_path / "out", tmp_path / "in", output=tmp_path / "uniform", candidate="uniform")
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "uniform").state_dict()
    states = [load_file(tmp_path / "in" / f"checkpoint-{step}" / "model.safetensors") for step in (1, 2, 3)]
    for name, tensor in states[2].items():
        expected = tensor
        if name != "transformer.wte.weight":
            expected = torch.stack([state[name].double() for state in states]).mean(dim=0).float()
        assert torch.equal(loaded[name], expected), name
    assert torch.equal(loaded["lm_head.weight"], states[2]["transformer.wte.weight"]), "they are tied"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [bool(each["not_its_own"]) for each in report["checkpoints"]] == [True, False, False]


def test_classifiers_of_several_numbers_of_labels_share_the_body_and_load_again(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for step, labels in ((1, 2), (2, 5), (3, 3)):
        torch.manual_seed(step)
        config = transformers.BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
            num_labels=labels, max_position_embeddings=8,
        )  # fmt: skip
        transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "in" / f"checkpoint-{step}")
    combine_checkpoints(tmp_path / "in", output=tmp_path / "out", take_from={"checkpoint-2": "classifier"})
    loaded = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.config.num_labels == 5, "the config is that of the checkpoint that gives the head"
    states = [load_file(tmp_path / "in" / f"checkpoint-{step}" / "model.safetensors") for step in (1, 2, 3)]
    assert torch.equal(loaded.classifier.weight, states[1]["classifier.weight"])
    name = "bert.encoder.layer.0.output.dense.weight"
    mean = torch.stack([state[name].double() for state in states]).mean(dim=0).float()
    assert torch.equal(loaded.state_dict()[name], mean)
