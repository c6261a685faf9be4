"""Which texts name something on the Hugging Face Hub. Nothing is asked: many are paths of somebody's disk instead."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_ID = re.compile(rf"{_PART}/{_PART}")
_ODD = re.compile(r"--|\.\.|\.git$")
_FOLDER = re.compile(
    r"""
      ((all|best|final|last|my|new|old|saved?|trained|fine-?tuned|pre-?trained|base|local|hf)[-_]?)?
      ( models?|checkpoints?|ckpts?|weights|snapshots?|saves|outputs?|out|results?|runs?|exps?|experiments?|logs?
      | train(ing)?|data(sets?)?|te?mp|home|root|mnt|opt|srv|scratch|work(space|dir)?|projects?|content|kaggle|cache
      | artifacts?|adapters?|loras?)
      ([-_.]?v?[0-9]+)?
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""What people call folders: an organisation of the Hub is seldom called so."""
_SAVED = re.compile(r"(checkpoint|ckpt|epoch|(global[-_]?)?step|version|run)[-_=]?[0-9]+", re.IGNORECASE)
_WITHOUT_OWNER = re.compile(
    r"(distil)?gpt2(-medium|-large|-xl)?|(distil)?(bert|roberta)-(base|large)([a-z0-9-]*)|albert-(base|large|xlarge|xxlarge)-v[12]"
    r"|t5-(small|base|large|3b|11b)|xlm-roberta-(base|large)|camembert-base|xlnet-(base|large)-cased|openai-gpt|transfo-xl-wt103"
)
"""The first models of the Hub, whose ids have no owner."""
_SLUG = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})?|code|multilingual")


def is_model_id(text: object) -> bool:
    """Whether it looks like `organisation/model`, and not like the path that most of such texts are: `runs/base`."""
    if not isinstance(text, str):
        return False
    if _WITHOUT_OWNER.fullmatch(text):
        return True
    owner, _, name = text.partition("/")
    return is_repo_id(text) and not _FOLDER.fullmatch(owner) and not _SAVED.fullmatch(name)


def is_repo_id(text: object) -> bool:
    """Whether the Hub would take it for a model or a data set with an owner."""
    return isinstance(text, str) and bool(_ID.fullmatch(text)) and len(text) <= 96 and not _ODD.search(text)


def is_license(text: object) -> bool:
    """`apache-2.0`, `other`"""
    return isinstance(text, str) and bool(_SLUG.fullmatch(text))


def is_language(text: object) -> bool:
    """`en`, `zh-Hant`, `code`"""
    return isinstance(text, str) and bool(_LANGUAGE.fullmatch(text))


def listed(value: Any) -> list[Any]:
    """A list as it is, one value as a list of it, nothing as an empty one."""
    if value is None:
        return []
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict) else [value]
