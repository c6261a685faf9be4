"""The tokenizer beside checkpoints that may lack one: models are also trained on files of tokens."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.tasks.text.tokenizer import open_tokenizer

VOCABULARIES = frozenset({"vocab.json", "vocab.txt", "merges.txt", "spiece.model", "spm.model"})
SPACE_AS_BYTE = "\u0120"
"""A space, in vocabularies where each letter stands for a byte."""
SPACE_AS_WORD = "\u2581"
"""A space, in vocabularies of sentencepiece."""


class FolderTokenizer:
    def __init__(self, checkpoints: CheckpointSet) -> None:
        self._checkpoints = checkpoints

    @property
    def is_there(self) -> bool:
        """Whether anything of one lies beside the checkpoints."""
        names = [path.name for path in self._checkpoints.side_files]
        return any("token" in name or name in VOCABULARIES for name in names)

    @cached_property
    def tokenizer(self) -> Any:
        """Raises `TaskError` (model-mismatch) where there is none."""
        return open_tokenizer(self._checkpoints)

    def bytes_of_tokens(self, vocabulary: int | None) -> NDArray[np.uint32] | None:
        """How many bytes of text each token stands for; special ones stand for none. None without a tokenizer.

        Right for tokens that are bytes, and for words with a mark of the space before them.
        """
        if not self.is_there:
            return None
        tokenizer = self.tokenizer
        added = {int(number): str(token) for number, token in tokenizer.added_tokens_decoder.items()}
        special = set(tokenizer.all_special_ids)
        by_bytes = SPACE_AS_BYTE in tokenizer.get_vocab()
        sizes = np.zeros(max(vocabulary or 0, len(tokenizer)), dtype=np.uint32)
        for number, token in enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))):
            if number in special or token is None:
                continue
            sizes[number] = len(added[number].encode()) if number in added else _num_bytes(token, by_bytes)
        return sizes


def _num_bytes(token: str, by_bytes: bool) -> int:
    if by_bytes:
        return len(token)
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return 1
    return len(token.replace(SPACE_AS_WORD, " ").removeprefix("##").encode())
