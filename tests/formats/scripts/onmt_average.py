"""OpenNMT-py: `onmt_average_models` with the arguments of this script."""

from __future__ import annotations

import functools

import absent
import torch

absent.stand_in("spacy", "ahocorasick", "fasttext", "flask", "waitress", "ctranslate2", "rapidfuzz")
# OpenNMT-py is of the time when `torch.load` ran what a file asks for by default.
torch.load = functools.partial(torch.load, weights_only=False)

from onmt.bin.average_models import main  # noqa: E402

if __name__ == "__main__":
    main()
