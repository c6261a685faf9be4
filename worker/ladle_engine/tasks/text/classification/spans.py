"""Spans of tagged words, such as names, and how many a model finds: seqeval's definition in its default mode.

Tags are `O`, or a letter and a type: `B-PER`. IOB1, IOB2, IOBES and mixtures of them are read alike. Shape suffixes: B
examples, W words, T types.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LETTERS = "OBIES."
OTHER = len(LETTERS)
"""Any other letter."""
O_TAG, B_TAG, I_TAG, E_TAG, S_TAG, DOT = range(OTHER)
CLOSES = frozenset({(B_TAG, B_TAG), (B_TAG, S_TAG), (B_TAG, O_TAG), (I_TAG, B_TAG), (I_TAG, S_TAG), (I_TAG, O_TAG)})
"""Letters of a word and of the next one between which a span ends, beside all that follow E and S."""
OPENS = frozenset(
    {(E_TAG, E_TAG), (E_TAG, I_TAG), (S_TAG, E_TAG), (S_TAG, I_TAG), (O_TAG, E_TAG), (O_TAG, I_TAG)}
)  # fmt: skip
"""Letters between which one begins, beside all that precede B and S."""


class Tags:
    """The tags that a model gives, by number."""

    def __init__(self, names: Sequence[str]) -> None:
        parts = [(name[:1], name[1:].split("-", maxsplit=1)[-1] or "_") for name in names]
        # Words without a tag, behind the end of a sentence, are outside.
        parts.append(("O", "_"))
        self.types = tuple(dict.fromkeys(kind for _, kind in parts))
        letters = [LETTERS.find(letter) if letter else OTHER for letter, _ in parts]
        self._letters = torch.tensor([letter if letter >= 0 else OTHER for letter in letters])
        self._types = torch.tensor([self.types.index(kind) for _, kind in parts])
        pairs = [[(before, after) for after in range(OTHER + 1)] for before in range(OTHER + 1)]
        self._closes = torch.tensor([[pair in CLOSES or pair[0] in (E_TAG, S_TAG) for pair in row] for row in pairs])
        self._opens = torch.tensor([[pair in OPENS or pair[1] in (B_TAG, S_TAG) for pair in row] for row in pairs])

    def counts(self, predicted_BW: Tensor, true_BW: Tensor) -> Tensor:
        """How many spans of each type are found, predicted and there, int64 [B, 3, T].

        Of numbers of tags, int64; a negative one in `true_BW` is no word.
        """
        inside = true_BW >= 0
        outside = len(self._letters) - 1
        predicted, true = (self._spans(torch.where(inside, tags, outside).cpu()) for tags in (predicted_BW, true_BW))
        same = predicted.ends & true.ends & (predicted.begins == true.begins) & (predicted.types == true.types)
        return torch.stack(
            [
                self._by_type(same, true.types),
                self._by_type(predicted.ends, predicted.types),
                self._by_type(true.ends, true.types),
            ],
            dim=1,
        )

    def _spans(self, tags_BW: Tensor) -> _Spans:
        edge = tags_BW.new_full((len(tags_BW), 1), len(self._letters) - 1)
        padded = torch.cat([edge, tags_BW, edge], dim=1)
        letters, types = self._letters[padded], self._types[padded]
        before, after = letters[:, :-1], letters[:, 1:]
        changes = types[:, :-1] != types[:, 1:]
        ends = self._closes[before, after] | (changes & (before != O_TAG) & (before != DOT))
        opens = self._opens[before, after] | (changes & (after != O_TAG) & (after != DOT))
        places = torch.arange(padded.shape[1] - 1).expand_as(opens)
        begins = torch.where(opens, places, 0).cummax(dim=1).values
        # Between words i - 1 and i: what ends there ends with word i - 1, and began before.
        return _Spans(ends[:, 1:], begins[:, :-1], types[:, 1:-1])

    def _by_type(self, there_BW: Tensor, types_BW: Tensor) -> Tensor:
        counts = torch.zeros(len(there_BW), len(self.types), dtype=torch.int64)
        return counts.scatter_add_(1, types_BW, there_BW.to(torch.int64))


class _Spans:
    """For each word, whether a span ends with it; where that begins; its type. Each [B, W]."""

    def __init__(self, ends: Tensor, begins: Tensor, types: Tensor) -> None:
        self.ends, self.begins, self.types = ends, begins, types


def has_spans(names: Sequence[str]) -> bool:
    """Whether tags are of a scheme for spans, and not parts of speech, say."""
    return any(name[:2] in ("B-", "I-", "E-", "S-") for name in names) or {"B", "I"} <= set(names)
