"""The tokenizer that lies beside the checkpoints, as `AutoTokenizer` loads it. No code of the folder is run."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.tasks import model_config
from ladle_engine.tasks.libraries import require
from ladle_engine.tasks.text.tokenizer_files import copy_tokenizer_files

SENTENCEPIECE = (".model", ".spm")
"""Endings of models of sentencepiece's own."""
VOCABULARIES = (*SENTENCEPIECE, ".tiktoken", "tekken.json")
"""Endings of files that transformers takes under other names than its own."""
PANIC = "PanicException"
"""What the tokenizers library raises where its Rust code gives up; not an `Exception`."""


def open_tokenizer(checkpoints: CheckpointSet) -> Any:
    """A `PreTrainedTokenizerBase` of transformers.

    Raises `TaskError`: model-mismatch, where there is none, it is broken, it needs code of its own, or it has more
    tokens than the model; missing-library.
    """
    config = model_config.parse_config(checkpoints)
    # transformers takes seconds to import.
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        settings = copy_tokenizer_files(checkpoints, Path(folder))
        names = [path.name for path in Path(folder).iterdir()]
        if not names:
            raise TaskError(
                "model-mismatch",
                f"`{checkpoints.folder}` must have the model's tokenizer, but there are no tokenizer files in it or "
                f"beside its checkpoints. Write them with `tokenizer.save_pretrained({str(checkpoints.folder)!r})`.",
            )
        _require_libraries(names)
        with _translated(checkpoints, names):
            _refuse_other_classes(settings, config)
            tokenizer = AutoTokenizer.from_pretrained(
                folder, config=config, trust_remote_code=False, local_files_only=True
            )
            _refuse_empty(tokenizer, names)
            # Wrong settings fail at the first text.
            tokenizer("a text")
    _refuse_another_vocabulary(tokenizer, config)
    return tokenizer


def vocabulary_size(config: Any) -> int | None:
    """How many tokens the model of this config of transformers knows; None where it does not say."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    return size if type(size) is int and size >= 1 else None


def _require_libraries(names: list[str]) -> None:
    """For a folder with a model of sentencepiece: transformers converts it, unless a vocabulary of its own lies beside,
    as Marian's and M2M100's do.
    """
    if "tokenizer.json" not in names and any(name.endswith(SENTENCEPIECE) for name in names):
        require("sentencepiece", "text")
        if "vocab.json" not in names:
            require("google.protobuf", "text")


def _refuse_other_classes(settings: Mapping[str, Any], config: Any) -> None:
    """Raises `TaskError` for a class that is not a tokenizer of transformers: it would be code of the folder's, or the
    tokens of another class than the model was trained with.
    """
    from transformers import PreTrainedTokenizerBase
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    auto_map = settings.get("auto_map")
    needs_code = isinstance(auto_map, (list, tuple)) or (isinstance(auto_map, dict) and "AutoTokenizer" in auto_map)
    for name in (settings.get("tokenizer_class"), getattr(config, "tokenizer_class", None)):
        if name is None:
            continue
        found = tokenizer_class_from_name(name) if isinstance(name, str) else name
        # transformers itself takes its generic class for a name that it does not know.
        if found is None and not needs_code:
            continue
        if isinstance(found, type) and issubclass(found, PreTrainedTokenizerBase):
            needs_code = False
            continue
        raise _refused(
            f"name a tokenizer of transformers, but its `tokenizer_class` is {repr(name)[:100]}. Code of the folder is "
            f"never run"
        )
    if needs_code:
        raise _refused(
            "need no code of its own, but its `auto_map` names some, which is never run. Save it as a `tokenizer.json`"
        )


def _refuse_empty(tokenizer: Any, names: Collection[str]) -> None:
    """transformers makes some tokenizers of no file at all, with special tokens and nothing else."""
    wanted = {*type(tokenizer).vocab_files_names.values(), *(["tokenizer.json"] if tokenizer.is_fast else [])}
    if wanted and not wanted & set(names) and not any(name.endswith(VOCABULARIES) for name in names):
        raise FileNotFoundError(f"a {type(tokenizer).__name__} needs one of {', '.join(sorted(wanted))}")


def _refused(text: str) -> TaskError:
    return TaskError("model-mismatch", f"The tokenizer beside the checkpoints must {text}.")


@contextmanager
def _translated(checkpoints: CheckpointSet, names: list[str]) -> Iterator[None]:
    """What is missing or broken fails wherever transformers first needs it: OSError, ValueError, TypeError ..."""
    try:
        yield
    except (TaskError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        there = ", ".join(f"`{name}`" for name in sorted(names)[:10])
        raise TaskError(
            "model-mismatch",
            f"`{checkpoints.folder}` must have a tokenizer that transformers can load, but with {there} that fails "
            f"({type(error).__name__}: {str(error)[:300]}). Copy there what `tokenizer.save_pretrained` writes.",
        ) from error


def _refuse_another_vocabulary(tokenizer: Any, config: Any) -> None:
    """Raises `TaskError` for a tokenizer with more tokens than the model has embeddings.

    Tokens that were added to it do not count: a text may do without them, and `encode` looks at the texts.
    """
    known = vocabulary_size(config)
    own = tokenizer.vocab_size
    if known is not None and own > known:
        raise TaskError(
            "model-mismatch",
            f"The tokenizer beside the checkpoints must be the model's, but it has {own:,} tokens, and `config.json` "
            f"says that the model knows {known:,} (`vocab_size`).",
        )
