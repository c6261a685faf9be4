"""The output folder: the model with its config, and all that says how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ladle_engine.checkpoints.hashing import HashedReaders
from ladle_engine.checkpoints.readers import open_all
from ladle_engine.checkpoints.side_files import side_name
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.far_names import in_far_names
from ladle_engine.methods.context import MethodContext
from ladle_engine.model.adapters import num_parameters
from ladle_engine.output.adapter_result import as_written
from ladle_engine.output.digests import sha256_of
from ladle_engine.output.folder import COEFFICIENTS_FILE, FORMAT_VERSION, REPORT_FILE, STATISTICS_FILE
from ladle_engine.output.model_writer import copy_side_files, verify_model, write_model
from ladle_engine.output.recipe import Recipe
from ladle_engine.pipeline.adapter_report import adapters_json, notes_on
from ladle_engine.pipeline.base_report import base_json, base_weights_json
from ladle_engine.pipeline.candidates import Candidate
from ladle_engine.pipeline.card_facts import card_facts
from ladle_engine.pipeline.card_pictures import write_pictures
from ladle_engine.pipeline.merge_curve import merge_curve_json
from ladle_engine.pipeline.model_card import model_card, picture_file
from ladle_engine.pipeline.stages import StageClock
from ladle_engine.pipeline.tensors_report import tensors_json
from ladle_engine.progress import ProgressCallback, Warned
from ladle_engine.storage.far.presence import far_record
from ladle_engine.storage.input_file import COUNTS
from ladle_engine.storage.inputs import Inputs
from ladle_engine.versions import installed_version, versions
from ladle_report import PAGE_FILE, page


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a report says about a run besides its candidates."""

    settings: Mapping[str, Any]
    """The arguments of `average`."""
    provenance: Mapping[str, str]
    """The caller's own words: for a job, its id and attempt."""
    warnings: Sequence[str]
    """Those that follow are in it too."""
    memory: Mapping[str, Any]
    """How the directions were kept, and why."""
    inputs: Inputs
    """Everything that was read."""
    data: Mapping[str, Path]
    """Argument -> data set."""
    base: CheckpointSet | None = None
    """The base model of adapters, where it was read from files."""
    clock: StageClock
    """What the stages took."""
    diagnosis: Mapping[str, Any] | None = None
    """Where it was asked for."""
    choice: Mapping[str, Any] | None = None
    """What the intervals count; see `Stated.to_json`."""
    forecast: Mapping[str, Any] | None = None
    """What averaging was expected to bring, where that could be told."""


def write_output(
    folder: Path,
    context: MethodContext,
    candidates: list[Candidate],
    winner: Candidate,
    run: Run,
    max_shard_bytes: int,
    output_format: str,
) -> dict[str, int]:
    """Fills the existing, empty `folder`, and returns its files with their sizes in bytes.

    Raises `OutputError` (disk-full), `OSError` from a disk that fills up meanwhile, or `EngineError` (inputs-changed).
    """
    recipe = Recipe(
        checkpoints=context.checkpoints.rows_of(winner.choice.coefficients.checkpoints),
        coefficients=winner.choice.coefficients,
        output_dtypes=context.output_dtypes,
        statistics=winner.judged.statistics,
    )
    metadata = {"ladle_version": installed_version("ladle"), "ladle_method": winner.method} | {
        f"ladle_{key}": value for key, value in run.provenance.items()
    }
    with open_all(recipe.checkpoints) as readers:
        hashed = HashedReaders(readers, recipe.files(readers))
        written = as_written(recipe, hashed.readers, context.adapter_output)
        digests = write_model(
            folder,
            written.recipe,
            max_shard_bytes=max_shard_bytes,
            metadata=metadata,
            on_event=context.on_event,
            readers=hashed.readers,
            output_format=output_format,
        )
        run.inputs.know(hashed.digests())
    verify_model(folder, written.recipe, digests, context.on_event)
    copy_side_files(context.checkpoints, folder, run.inputs)
    digests |= written.write_config(folder)
    write_statistics(folder, candidates)
    inputs = inputs_json(context.checkpoints, run)
    write_json(folder / COEFFICIENTS_FILE, coefficients_json(context, candidates, winner, inputs))
    adapters = adapters_json(context.checkpoints, written, run.base, run.inputs.digests)
    for note in notes_on(adapters, winner.method, context.adapter_output):
        context.on_event(Warned(message=note))
    report = report_json(context, candidates, winner, run, digests, inputs) | adapters
    report["card"] = card_facts(context.checkpoints, context.task.name, output_format)
    figures = write_pictures(folder, report, context.on_event)
    report["files"] |= digests_in(folder, [COEFFICIENTS_FILE, STATISTICS_FILE, *map(picture_file, figures)])
    write_json(folder / REPORT_FILE, report)
    (folder / "README.md").write_text(in_far_names(model_card(report, figures)))
    write_page(folder, context.on_event)
    return sizes_in(folder)


def sizes_in(folder: Path) -> dict[str, int]:
    """Its files, with their sizes in bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def write_page(folder: Path, on_event: ProgressCallback) -> None:
    """A page that cannot be drawn is no reason to lose the model."""
    try:
        text = page(json.loads((folder / REPORT_FILE).read_text()))
    except Exception as error:
        told = f"`{PAGE_FILE}` could not be made ({type(error).__name__}: {error}). `ladle report` makes it anew."
        on_event(Warned(message=told))
        return
    (folder / PAGE_FILE).write_text(text)


def inputs_json(checkpoints: CheckpointSet, run: Run) -> dict[str, Any]:
    """SHA-256 of all that was read: of each file, and of the names and sizes in a folder of data."""
    digests = run.inputs.digests
    side_files = {path: str(side_name(path, checkpoints.places)) for path in checkpoints.side_files}
    return {
        "checkpoints": {
            checkpoint.name: {path.name: digests[path] for path in checkpoint.files}
            for checkpoint in checkpoints.with_base.checkpoints
        },
        "side_files": {name: digests[path] for path, name in side_files.items()},
        "data": {name: _data_json(path, run.inputs) for name, path in run.data.items()},
    }


def _data_json(path: Path, inputs: Inputs) -> dict[str, Any]:
    """Empty for a path of which only the task knows what it stands for."""
    if path in inputs.digests:
        return {"sha256": inputs.digests[path]}
    if path in inputs.folders:
        return {"files": inputs.files_in(path), "sha256_of_names_and_sizes": inputs.listing_digest(path)}
    return {}


def coefficients_json(
    context: MethodContext, candidates: list[Candidate], winner: Candidate, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Enough to rebuild the model, and every other candidate, from the original files; see `rebuild`."""
    return {
        "format": FORMAT_VERSION,
        "winner": winner.method,
        "use_ema": context.checkpoints.reference.use_ema,
        "sha256": inputs["checkpoints"],
        "inputs": {"side_files": inputs["side_files"], "data": inputs["data"]},
        **({} if context.checkpoints.adapters is None else {"adapters": _adapters_json(context)}),
        "taken_from": _taken_from(context.checkpoints),
        "output_dtypes": {name: str(dtype).removeprefix("torch.") for name, dtype in context.output_dtypes.items()},
        "candidates": {
            candidate.method: {
                **candidate.choice.coefficients.to_json(),
                "statistics": sorted(candidate.judged.statistics),
            }
            for candidate in candidates
        },
    }


def _adapters_json(context: MethodContext) -> dict[str, Any]:
    assert context.checkpoints.adapters is not None
    output = context.adapter_output
    return {"space": context.checkpoints.adapters.space} if output is None else output.to_json()


def _taken_from(checkpoints: CheckpointSet) -> dict[str, list[str]]:
    """Checkpoint -> the tensors that are left out of the average and taken from it."""
    found: dict[str, list[str]] = {}
    for name, source in checkpoints.taken.items():
        found.setdefault(source, []).append(name)
    return found


def report_json(
    context: MethodContext,
    candidates: list[Candidate],
    winner: Candidate,
    run: Run,
    digests: Mapping[str, str],
    inputs: Mapping[str, Any],
) -> dict[str, Any]:
    names = context.checkpoints.names
    lengths_K = context.geometry.lengths_KG(context.whole_model())[:, 0]
    return {
        "format": FORMAT_VERSION,
        "winner": winner.method,
        "metric": {"name": context.metric.name, "higher_is_better": context.metric.higher_is_better},
        "task": context.task.name,
        "gain": asdict(winner.gain),
        "candidates": [
            {
                **asdict(candidate.score),
                "coefficients": candidate.choice.coefficients.own_KG.T.tolist(),
                **base_weights_json(candidate.choice.coefficients),
                "groups": list(candidate.choice.coefficients.groups),
                "statistics": context.statistics.of(candidate.choice.coefficients),
                "curve": candidate.choice.losses,
                "worse_on": candidate.worse_on,
                **_single(candidate),
                "seconds": round(candidate.seconds, 3),
            }
            for candidate in candidates
        ],
        "checkpoints": [
            {
                "name": checkpoint.name,
                "step": checkpoint.step,
                "fit": _known(context, index, "fit"),
                "select": _known(context, index, "select"),
                "distance_to_centre": float(length),
                "files": inputs["checkpoints"][checkpoint.name],
                "not_its_own": context.not_its_own(checkpoint),
            }
            for index, (checkpoint, length) in enumerate(zip(context.checkpoints.checkpoints, lengths_K, strict=True))
        ],
        **base_json(context, inputs["checkpoints"]),
        "geometry": {
            "distances": context.geometry.distances_KK().tolist(),
            "cosines": context.geometry.cosines_KK().tolist(),
            "order": list(names),
        },
        "left_out": {
            "taken_from": _taken_from(context.checkpoints),
            "dropped": sorted(context.checkpoints.dropped),
            "in_result": context.tensors_taken(winner.choice.coefficients),
        },
        "merge_curve": merge_curve_json(
            context, [each["checkpoint"] for each in (run.diagnosis or {}).get("segments", ())]
        ),
        "training": {each.method: each.choice.course for each in candidates if each.choice.course is not None},
        "details": {each.method: each.choice.details for each in candidates if each.choice.details is not None},
        **({} if run.choice is None else {"choice": dict(run.choice)}),
        **({} if run.forecast is None else {"forecast": dict(run.forecast)}),
        **({} if run.diagnosis is None else {"diagnosis": run.diagnosis}),
        "tensors": tensors_json(context, winner),
        "num_parameters": num_parameters(context.binding, context.checkpoints),
        "splits": {
            "fit": len(context.fit),
            "select": len(context.select),
            "fit_judged": len(winner.judged.fit),
            "seed": context.seed,
        },
        "validation_sets": {
            name: {"weight": context.named_sets.weights.get(name, 0.0), "select": len(each.known)}
            for name, each in winner.on_sets.items()
        },
        "statistics": context.statistics.to_json(),
        "memory": dict(run.memory),
        "stages": run.clock.to_json(),
        "settings": dict(run.settings),
        "provenance": dict(run.provenance),
        "warnings": list(run.warnings),
        "inputs": {"side_files": inputs["side_files"], "data": inputs["data"], **_far()},
        "versions": versions(),
        "files": dict(digests),
    }


def _single(candidate: Candidate) -> dict[str, float]:
    """The interval of one comparison; nothing where the gain has no other."""
    single = candidate.single
    return {} if single is None else {"single_low": single.low, "single_high": single.high}


def _far() -> dict[str, Any]:
    found = far_record()
    return {"far": found} if found else {}


def _known(context: MethodContext, index: int, split: str) -> dict[str, Any] | None:
    """A checkpoint's means, with the number of examples behind them: few, where a race had seen enough."""
    evaluation = context.evaluations.known(context.one_checkpoint(index), split, context.metric)
    if evaluation is None or not all(len(part) for _, part in evaluation.sets):
        return None
    return {"examples": len(evaluation), "means": evaluation.scores()}


def digests_in(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Of those files that are there."""
    return {name: sha256_of(folder / name) for name in names if (folder / name).exists()}


def write_statistics(folder: Path, candidates: list[Candidate]) -> None:
    """Recomputed statistics are no sum of the checkpoints': kept under `<method>/<tensor>`.

    Two methods that chose the same have one set of tensors, and a file takes no tensor twice: hence copies.
    """
    kept: dict[str, Tensor] = {
        f"{candidate.method}/{name}": tensor.clone(memory_format=torch.contiguous_format)
        for candidate in candidates
        for name, tensor in candidate.judged.statistics.items()
    }
    if kept:
        # Not `save_file`, whose error on a full disk is one of its own.
        content = save(kept, metadata={"format": "pt"})
        (folder / STATISTICS_FILE).write_bytes(content)
        COUNTS.wrote(len(content))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    # A NaN is no JSON: better an error here than a file that half the readers refuse.
    path.write_text(in_far_names(json.dumps(value, indent=1, allow_nan=False)) + "\n")
