"""What the values of a curve's models depend on besides the models: all is computed anew where an earlier curve had it
otherwise."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.methods.context import MethodContext
from ladle_engine.model.binding import Binding
from ladle_engine.model.quantisers import quantiser_buffers
from ladle_engine.model.spectral_norm import spectral_vectors
from ladle_engine.pipeline.along.schedule import CurveOptions
from ladle_engine.pipeline.job import Job
from ladle_engine.resume_state import digest
from ladle_engine.tasks import identity_of
from ladle_engine.versions import versions

WHICH_CHECKPOINTS = ("kind", "curve_every", "pattern", "last", "steps", "exclude", "order", "like")
"""Settings that say which checkpoints take part, and where points are: a model's key says what it is made of."""
NEVER_READ = "num_batches_tracked"
"""BatchNorm's counter, which grows with the run, and which nothing reads that judges a model."""


def depends_on(job: Job, context: MethodContext, options: CurveOptions) -> dict[str, Any]:
    """Collective: by names for people. `options` are what memory has left of those that were asked for: who is compared
    with whom decides on how many examples each is known."""
    settings = job.request.deciding_settings(job.task, with_paths=False)
    inputs, device = job.inputs, job.device
    found = {name: value for name, value in settings.items() if name not in WHICH_CHECKPOINTS}
    found |= versions() | {
        "curve_shapes": options.to_json()["shapes"],
        "curve_windows": options.windows,
        "batch_size": job.task.batch_size,
        "code of the task": digest(identity_of(job.task)),
        "data": {
            name: inputs.digests.get(path) or inputs.times().get(str(path)) for name, path in job.request.data.items()
        },
        "files beside the checkpoints": _files_besides(job),
        "way of making statistics": context.statistics.policy.name,
        "tensors that averages have of one checkpoint": digest(_of_one_checkpoint(job, context.binding)),
        "types of tensors": digest({name: str(dtype) for name, dtype in context.output_dtypes.items()}),
        "ranks": [job.collectives.size, context.weights.plan.placement],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
    # Rank 0's, as it comes back from a file: files have other times on other machines.
    plain: dict[str, Any] = json.loads(job.collectives.broadcast(json.dumps(found, default=str).encode()))
    return plain


def contents(job: Job) -> list[str]:
    """What stands for the bytes of each checkpoint, once all were read."""
    return [_content(job, checkpoint) for checkpoint in job.checkpoints.checkpoints]


def _content(job: Job, checkpoint: Checkpoint) -> str:
    return digest([job.inputs.digests[path] for path in checkpoint.files])


def _files_besides(job: Job) -> str:
    """Config, tokenizer, the base model of adapters: what is neither a checkpoint nor data."""
    others = {path for checkpoint in job.checkpoints.checkpoints for path in checkpoint.files}
    others |= set(job.request.data_paths)
    return digest(sorted((path.name, sha256) for path, sha256 in job.inputs.digests.items() if path not in others))


def _of_one_checkpoint(job: Job, binding: Binding) -> list[Any]:
    """Mostly the last one, which is another in a run that has grown: what averages have of it has changed then."""
    checkpoints = job.checkpoints
    counters = binding.counters_of(checkpoints.reference)
    found: list[Any] = [[name, _bytes_of(each)] for name, each in counters.items() if not name.endswith(NEVER_READ)]
    sources = set(checkpoints.taken.values())
    if spectral_vectors(binding.model) or next(quantiser_buffers(binding.model), None) is not None:
        sources.add(checkpoints.reference.name)
    found += [_content(job, each) for each in checkpoints.checkpoints if each.name in sources]
    if checkpoints.adapters is not None:
        # The model has room for the factors of all.
        found += [checkpoints.adapters.config, checkpoints.adapters.ranks]
    return found


def _bytes_of(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
