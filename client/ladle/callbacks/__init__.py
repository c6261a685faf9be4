"""From a training straight to Ladle: what keeps checkpoints while a model trains, and averages them at the end.

* `CheckpointKeeper` for loops of your own.
* `ladle.callbacks.transformers.LadleCallback` for the Trainer of transformers.
* `ladle.callbacks.lightning.LadleCallback` for Lightning.

These modules need torch, and `ladle` itself never imports them.
"""

from __future__ import annotations

from ladle.callbacks._failures import NotKept, NotKeptWarning
from ladle.callbacks.keeper import CheckpointKeeper

__all__ = ["CheckpointKeeper", "NotKept", "NotKeptWarning"]
