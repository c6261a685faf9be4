"""The values of a pickle file: for what is no state dict, such as the `.metadata` of a sharded checkpoint."""

from __future__ import annotations

from typing import Any

from ladle_engine.checkpoints.pickles.follower import Asked
from ladle_engine.checkpoints.pickles.legacy_file import begins_as_legacy, open_legacy
from ladle_engine.checkpoints.pickles.opcodes import ANYTHING, follow
from ladle_engine.checkpoints.pickles.source import Source
from ladle_engine.checkpoints.pickles.torch_archive import is_zip, open_archive
from ladle_engine.checkpoints.pickles.unwanted import Unwanted, refusal, wanted
from ladle_engine.checkpoints.pickles.values import Malformed
from ladle_engine.checkpoints.safetensors_file import corrupt
from ladle_engine.storage.input_file import InputFile


def pickled_value(file: InputFile, asked: Asked = ANYTHING) -> Any:
    """What the pickle makes that `pickle.dump` or `torch.save` wrote.

    Dicts, lists, tuples, texts and numbers are themselves, and sets are lists. Classes and functions are `values.Name`,
    tensors `values.StoredTensor`, all other objects `values.Inert`. A key of a dict that is a tuple or a long number is
    `Inert("a key", (the key,))`.

    Nothing is imported, called or run. Raises `CheckpointError`: corrupt for what is damaged, or needs more memory or
    opcodes than `asked` allows (about 160 MB and ten million); unsafe for a pickle that names what runs programs.
    """
    try:
        return _value(file, asked)
    except Unwanted as error:
        raise refusal(file.path, error) from error
    except Malformed as error:
        text = str(error)
        raise corrupt(file.path, text if text.startswith("must ") else f"must be a pickle, but {text}") from error


def _value(file: InputFile, asked: Asked) -> Any:
    if is_zip(file):
        return wanted(follow(open_archive(file).pickle(), asked)).value
    if begins_as_legacy(file):
        return open_legacy(file).value
    return wanted(follow(Source(file), asked)).value
