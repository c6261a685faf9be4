"""A checkpoint's name as people read it: words and numbers, and what each number counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache

SUFFIXES = re.compile(r"(\.(safetensors|pt|pth|bin|ckpt|tar|nemo|index\.json))+$", re.IGNORECASE)


class Counts(StrEnum):
    """What a number counts, by the word beside it."""

    STEP = "step"
    EPOCH = "epoch"
    """An epoch, or something else that holds many steps, such as a stage."""
    PLAIN = "plain"
    """No word says: the 7 of `model-7`, both numbers of `checkpoint_1_900`."""
    WEAK = "weak"
    """Belongs to another word, as in `resnet18`."""
    NOTHING = "nothing"
    """A metric, a setting, a version, a date or a place."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A word, or a number with what it counts."""

    word: str = ""
    number: Fraction | None = None
    counts: Counts = Counts.NOTHING
    key: tuple[str, int] = ("", 0)
    """Of a number: the word before it and how many numbers lie between. Two names with the same key can be compared."""


STEP_WORD = re.compile(r".*(step|iter|iteration|update)s?|its?|ba|batch(es)?|tok(en)?s|samples|k?imgs?")
EPOCH_WORD = re.compile(r".*epochs?|eps?|e|rounds?|cycles?|phases?|stages?")
METRIC_WORD = re.compile(r".*(loss|acc|accuracy|score|error|perplexity|precision|recall|metric|reward|f1|auc|iou|bleu)")
OTHER_WORD = re.compile(
    r"""
      f|top|map|ap|val|valid|validation|test|dev|eval|train|nll|bpc|bpb|elbo|em|mrr|ndcg|hits?|rec|ret|return|psnr|ssim
    | fid|lpips|kid|rouge|wer|cer|ppl|mse|mae|rmse|dice|err|prec|performance|fitness
    | lr|wd|decay|bs|size|seed|drop|dropout|momentum|mom|betas?|alpha|gamma|lambda|lam|mu|sigma|tau|eta|rho|eps|temp
    | temperature|warmup|clip|noise|aug|mixup|cutmix|smoothing|ls|layers?|depth|width|dim|hidden|heads?|patch|res
    | resolution|px|folds?|split|runs?|trial|exp|experiment|config|cfg|job|worker|rank|shard|part|gpus?|node
    | world|v|ver|version|rev|copy|r|sweep|group|id|task|topk
    """,
    re.VERBOSE,
)
"""Metrics, settings, versions and places: their numbers say nothing about time."""
OWN_WORD = re.compile(
    r"""
      (checkpoint|model|weight|param)s?|c(k|hk)?pt|cp|net(work)?|snap(shot)?|state|saved?|file|best|last|swa|ema
    | no?|nr|num(ber)?
    """,
    re.VERBOSE,
)
"""A number that follows one of these without a separator is the checkpoint's own: `checkpoint3`, but not `resnet18`."""
UNTRAINED_WORDS = frozenset({"init", "initial", "untrained"})
FIRST_WORDS = UNTRAINED_WORDS | {"pretrained", "zeroshot"}
LAST_WORDS = frozenset({"last", "latest", "final"})
RUNNING_AVERAGES = frozenset({"ema", "swa"})
AVERAGE_WORDS = frozenset({"avg", "ave", "average", "averaged", "averages", "averaging", "lawa", "polyak", "soup"})
AVERAGED_WORDS = LAST_WORDS | {"all", "from", "nbest", "of", "over", "top", "uniform"}
"""What may follow on such a word."""

TOKEN = re.compile(
    r"""
      (?P<date>(?<![0-9])(?:19|20)[0-9]{2}(?P<gap>[-_.]?)(?:0[1-9]|1[0-2])(?P=gap)(?:0[1-9]|[12][0-9]|3[01])
         (?:[-_t ]{0,2}(?:[01][0-9]|2[0-3])[-_:.h]?[0-5][0-9](?:[-_:.m]?[0-5][0-9])?)?(?![0-9]))
    | (?P<dotted>[0-9]+(?:\.[0-9]+){2,})
    | (?P<copy>\([0-9]+\))
    | (?P<number>(?:(?<=[=_:(\[, ])-)?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]{1,3}(?![^\W_]))?)(?P<unit>[kmb](?![^\W_]))?
    | (?P<word>(?:(?![0-9_])\w)+)
    """,
    re.VERBOSE,
)
UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
METRIC_DIGITS = re.compile(
    r"(?<![^\W_])(f|top|acc|map|ap|bleu|rouge|recall|precision|hits?|ndcg|p|r)@?[0-9]{1,2}(?=[=_:-]+[0-9])"
)
"""`top1_93.5`, `f1=0.9`: the first number is part of the metric's name."""
THOUSANDS = re.compile(r"([^\W\d_]*)([-_=]?)([0-9]{1,3}(?:(?P<mark>[_,])[0-9]{3})(?:(?P=mark)[0-9]{3})*)(?![0-9_,])")
EPOCH_AND_STEP = re.compile(r"e[0-9]+[si][0-9]+")
FULL_WIDTH_ZERO = 0xFF10
IDENTIFIER = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<![^\W_])[0-9a-z]+(?![^\W_])")


@lru_cache(maxsize=10_000)
def parts_of(name: str) -> tuple[Part, ...]:
    """Read from left to right. A number belongs to the word before it, or to a time word after it: `1000steps`."""
    text = THOUSANDS.sub(_joined, SUFFIXES.sub("", name).casefold())
    text = METRIC_DIGITS.sub(lambda found: re.sub(r"@?[0-9]+$", "", found[0]) + " ", IDENTIFIER.sub(_hidden, text))
    parts: list[Part] = []
    end = -1
    for found in TOKEN.finditer(text):
        parts += _read(found, parts, glued=found.start() == end)
        end = found.end()
    return tuple(_with_words_after(parts))


def _read(found: re.Match[str], before: list[Part], *, glued: bool) -> Iterator[Part]:
    if found["word"]:
        yield Part(word=found["word"])
    elif found["number"]:
        number = Fraction(found["number"]) * UNITS[found["unit"] or ""]
        word, between = _place(before)
        yield Part(number=number, counts=_counted(before, glued), key=(word, between))
    elif found["date"]:
        yield Part(number=Fraction(re.sub(r"[^0-9]", "", found["date"]).ljust(14, "0")), key=("date", 0))
    else:
        for digits in re.findall(r"[0-9]+", found[0]):
            yield Part(number=Fraction(digits), key=("version", 0))


def _place(before: list[Part]) -> tuple[str, int]:
    between = 0
    for part in reversed(before):
        if part.word:
            return part.word, between
        between += 1
    return "", between


def _counted(before: list[Part], glued: bool) -> Counts:
    if not before or not before[-1].word:
        return Counts.PLAIN
    word = before[-1].word
    if (time := _time(word)) is not None:
        return time
    if OTHER_WORD.fullmatch(word) or METRIC_WORD.fullmatch(word):
        return Counts.NOTHING
    return Counts.WEAK if glued and not OWN_WORD.fullmatch(word) else Counts.PLAIN


def _time(word: str) -> Counts | None:
    if OTHER_WORD.fullmatch(word):
        return None
    if STEP_WORD.fullmatch(word):
        return Counts.STEP
    return Counts.EPOCH if EPOCH_WORD.fullmatch(word) else None


def _with_words_after(parts: list[Part]) -> Iterator[Part]:
    for index, part in enumerate(parts):
        if part.counts in (Counts.PLAIN, Counts.WEAK) and index + 1 < len(parts):
            after = parts[index + 1]
            taken = index + 2 < len(parts) and parts[index + 2].number is not None
            if after.word and not taken and (time := _time(after.word)) is not None:
                part = replace(part, counts=time)
        yield part


def _joined(found: re.Match[str]) -> str:
    """`step_1_000_000` as one number; but fairseq's `checkpoint_1_900` are two."""
    word, gap, number = found.group(1, 2, 3)
    return word + gap + re.sub("[_,]", "", number) if found["mark"] == "," or _time(word) is Counts.STEP else found[0]


def _hidden(found: re.Match[str]) -> str:
    """A hash such as `3fa2c1d`, whose digits count nothing, as one word."""
    text = found[0]
    words = re.findall(r"[a-z]+", text)
    changes = len(re.findall(r"(?<=[0-9])[a-z]|(?<=[a-z])[0-9]", text))
    # A hash rarely looks like `e3s1000`.
    known = (
        EPOCH_AND_STEP.fullmatch(text) is not None
        or any(len(word) > 1 and (_time(word) or OWN_WORD.fullmatch(word)) for word in words)
        or all(map(_time, words))
    )
    return text if "-" not in text and (changes < 3 or known) else re.sub(r"[-0-9]", _letter, text)


def _letter(digit: re.Match[str]) -> str:
    """A digit as a sign that sorts like it and is none: the full-width ones are words here."""
    return "-" if digit[0] == "-" else chr(FULL_WIDTH_ZERO + int(digit[0]))


def natural_key(name: str) -> tuple[object, ...]:
    """Numbers by value, words by letter, separators only between names that are otherwise the same."""
    parts = [(1, Fraction(0), part.word) if part.number is None else (0, part.number, "") for part in parts_of(name)]
    return (parts, name)


def names_a_time(name: str) -> bool:
    """Whether it has an epoch, a step, or a number that is the checkpoint's own: `checkpoint-1`, not `imagenet-1k`."""
    return any(
        part.counts in (Counts.EPOCH, Counts.STEP)
        or (part.counts is Counts.PLAIN and OWN_WORD.fullmatch(part.key[0]) is not None)
        for part in parts_of(name)
    )


def names_one_checkpoint(name: str) -> bool:
    """Whether it names a time, or is `best`, `last` or the like."""
    return names_a_time(name) or bool(words_of(name) & (LAST_WORDS | {"best"}))


def sounds_like_weights(name: str) -> bool:
    """Whether it names one checkpoint, or has a word such as `model` or `weights`."""
    return names_one_checkpoint(name) or any(OWN_WORD.fullmatch(word) for word in words_of(name))


def names_an_average(name: str) -> bool:
    """Whether it is an EMA or SWA, or an average of checkpoints that a tool's script left: WeNet's `avg_5`, ESPnet's
    `valid.acc.ave_10best`, fairseq's `checkpoint_avg`, timm's `averaged`. Not `avg_loss` or `average-length`."""
    if words_of(name) & RUNNING_AVERAGES:
        return True
    parts = parts_of(name.rpartition("/")[2])
    return any(part.word in AVERAGE_WORDS and _of_checkpoints(parts[index + 1 :]) for index, part in enumerate(parts))


def _of_checkpoints(after: tuple[Part, ...]) -> bool:
    """Whether what follows on a word such as `avg` is nothing, how many, or which."""
    if not after:
        return True
    if after[0].number is not None:
        return after[0].number.denominator == 1
    return bool(OWN_WORD.fullmatch(after[0].word) or _time(after[0].word) or after[0].word in AVERAGED_WORDS)


def words_of(name: str) -> set[str]:
    return {part.word for part in parts_of(name)}
