"""The gains that are stated: their intervals count that candidates and the bar were picked where they are judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ladle_engine.evaluation.gain import CONFIDENCE, Gain
from ladle_engine.evaluation.simultaneous import Compared, Simultaneous, simultaneous
from ladle_engine.methods.context import MethodContext
from ladle_engine.pipeline.candidates import Candidate

STATE_KEY = "intervals"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the select split can tell of one average, with a power of 80 %."""

    method: str
    """The winner or, where that is the best checkpoint, the average with the largest gain."""
    visible_gain: float
    """So large a gain is seen."""
    examples_needed: int | None
    """With so many examples a gain of the size that was measured is seen. None where it is 0, or has been seen: where
    its interval does not include 0."""


@dataclass(frozen=True, kw_only=True)
class Stated:
    """All candidates with their intervals."""

    candidates: list[Candidate]
    counted: Simultaneous | None
    """On the select split; None where no average differs from the best checkpoint."""
    methods: tuple[str, ...] = ()
    """Whose gains those are."""
    size: int = 0
    """Examples of the select split."""

    def evidence(self, winner: Candidate) -> Evidence | None:
        if self.counted is None:
            return None
        gains = [gain.value for gain in self.counted.gains]
        number = self.methods.index(winner.method) if winner.method in self.methods else gains.index(max(gains))
        return Evidence(
            method=self.methods[number],
            visible_gain=self.counted.visible(number),
            examples_needed=self.counted.needed(number, self.size)
            if self.counted.gains[number].includes_zero
            else None,
        )

    def to_json(self, winner: Candidate) -> dict[str, Any] | None:
        """For the report."""
        evidence = self.evidence(winner)
        if evidence is None:
            return None
        counted = {name: getattr(self.counted, name) for name in ("averages", "checkpoints", "in_part", "low", "high")}
        return {"interval": "simultaneous", "confidence": CONFIDENCE, **counted, **asdict(evidence)}


def state_gains(candidates: Sequence[Candidate], context: MethodContext) -> Stated:
    """Collective, once all have been judged. What was computed before a crash is taken from the state: later parts of a
    job evaluate more models, among which nobody chose."""
    best, *others = candidates
    # What is the best checkpoint itself gains nothing, and that is certain.
    averages = [each for each in others if each.choice.coefficients.digest != best.choice.coefficients.digest]
    if not averages:
        return Stated(candidates=list(candidates), counted=None)
    known = context.state.load(STATE_KEY)
    if known is None:
        # By one rank, because machines of several kinds round in several ways.
        computed = _computed(best, averages, context) if context.collectives.rank == 0 else {}
        known = json.loads(context.collectives.broadcast(json.dumps(computed).encode()))
        context.state.save(STATE_KEY, known)
    on_select = _from_json(known["select"])
    on_sets = {name: _from_json(each) for name, each in known["sets"].items()}
    methods = tuple(each.method for each in averages)

    def stated(candidate: Candidate) -> Candidate:
        if candidate.method not in methods:
            return candidate
        number = methods.index(candidate.method)
        sets = {
            name: replace(each, gain=on_sets[name].gains[number], single=each.gain)
            for name, each in candidate.on_sets.items()
        }
        return replace(candidate, gain=on_select.gains[number], single=candidate.gain, on_sets=sets)

    return Stated(
        candidates=[stated(each) for each in candidates],
        counted=on_select,
        methods=methods,
        size=len(best.judged.select),
    )


def _computed(best: Candidate, averages: Sequence[Candidate], context: MethodContext) -> dict[str, Any]:
    own = {each.choice.coefficients.digest for each in (best, *averages)}
    singles = {context.one_checkpoint(index).digest for index in range(len(context.checkpoints.names))}
    tried = context.evaluations.all_known("select", context.metric)
    compared = Compared(
        best=best.judged.select,
        candidates=[each.judged.select for each in averages],
        averages=[known for digest, known in tried.items() if digest not in own | singles],
        checkpoints=[known for digest, known in tried.items() if digest in singles - own],
    )
    judging = list(context.named_sets.weights)
    by_set = {name: compared if len(judging) == 1 else compared.on_set(i) for i, name in enumerate(judging)}
    by_set |= {
        name: Compared(best=bar, candidates=[each.judged.others[name] for each in averages])
        for name, bar in best.judged.others.items()
    }
    return {
        "select": asdict(simultaneous(compared, context.metric, context.seed)),
        "sets": {name: asdict(simultaneous(each, context.metric, context.seed)) for name, each in by_set.items()},
    }


def _from_json(numbers: Mapping[str, Any]) -> Simultaneous:
    gains = tuple(Gain(**each) for each in numbers["gains"])
    return Simultaneous(**{**numbers, "gains": gains, "errors": tuple(numbers["errors"])})
