"""From a request to a job: everything is found, opened and checked before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ladle_engine.checkpoints import announce, discover
from ladle_engine.checkpoints.adapters.space import in_space
from ladle_engine.checkpoints.far_parts import fetch_weights
from ladle_engine.checkpoints.inputs import add_data, inputs_of
from ladle_engine.checkpoints.readers import keeping_files_open, open_all
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.collectives import Collectives, current_collectives
from ladle_engine.errors import CheckpointError
from ladle_engine.methods import plan_methods
from ladle_engine.methods.plan import refuse_bad_starts, refuse_missing_logits
from ladle_engine.output.adapter_result import refuse_for_whole_models, refuse_other_format
from ladle_engine.pipeline.along.choices import PROFILE
from ladle_engine.pipeline.along.earlier import Earlier, read_earlier
from ladle_engine.pipeline.ancestor import refuse_unused, with_ancestor
from ladle_engine.pipeline.base_model import open_base
from ladle_engine.pipeline.job import Job, Listener, attempt
from ladle_engine.pipeline.job_inputs import JobInputs
from ladle_engine.pipeline.prepare import choose_metric
from ladle_engine.pipeline.request import CURVE, Request
from ladle_engine.pipeline.splits import open_splits
from ladle_engine.progress import StageStarted, Warned, ignore, warnings_to
from ladle_engine.resume_state import ResumeState, job_key, same_everywhere
from ladle_engine.storage.atomic_folder import refuse_existing
from ladle_engine.storage.far.presence import is_far
from ladle_engine.tasks import choose_task, identity_of
from ladle_engine.tasks.function import FunctionTask


@contextmanager
def opened(request: Request) -> Iterator[Job]:
    """Collective: finds the checkpoints, the task and the data, and refuses what cannot work.

    Reads no weights. The files stay open inside the block.
    """
    collectives = current_collectives()
    on_event = Listener(progress=request.progress if collectives.rank == 0 else ignore)
    # What a curve offers as a model is an average over a window.
    method = PROFILE if request.kind == CURVE else request.method
    plan = plan_methods(method, request.method_options or {}, has_base=request.base is not None)
    refuse_unused(plan, request.base, is_curve=request.kind == CURVE)
    # A diagnosis mixes checkpoints whatever the methods do.
    plan = replace(plan, mixes=plan.mixes or request.diagnose)
    refuse_existing(Path(request.output), may_be_empty=not request.commit)
    on_event(StageStarted(stage="discover"))
    with ExitStack() as open_files:
        open_files.enter_context(keeping_files_open())
        open_files.enter_context(warnings_to(on_event))
        checkpoints = _discover(request)
        announce(checkpoints, on_event, order_matters=plan.needs_order)
        refuse_bad_starts(plan, checkpoints.names)
        base = open_base(
            checkpoints,
            None if request.base_model is None else Path(request.base_model),
            has_model=isinstance(request.task, FunctionTask),
            names_task=request.task is not None,
        )
        seen = checkpoints if base is None else base.described
        readers = open_files.enter_context(open_all(checkpoints.with_base))
        if is_far():
            # The mirror tells the caller itself.
            on_event.clock.enter("fetch")
        fetch_weights(readers)
        on_event.clock.enter("discover")
        # Config and data before they are used: what the task reads of them must be what is known.
        inputs = inputs_of(checkpoints, readers)
        if base is not None and base.stored is not None:
            inputs.add_all(inputs_of(base.stored, open_files.enter_context(open_all(base.stored))))
        task = choose_task(seen, request.task, request.task_options or {}, on_event)
        refuse_missing_logits(plan, task)
        own = {"batch_size": task.batch_size, "task": identity_of(task)}
        add_data(inputs, request.data_paths)
        splits = open_splits(request, task, seen)
        for remark in splits.remarks:
            on_event(Warned(message=remark))
        without_paths = request.deciding_settings(task, with_paths=False) | own
        same_everywhere(checkpoints, inputs, without_paths, collectives)
        state = ResumeState(
            Path(request.state_dir) if request.state_dir else None,
            job_key(request.deciding_settings(task) | own),
            collectives=collectives,
            on_event=on_event,
        )
        job = Job(
            request=request,
            plan=plan,
            task=task,
            metric=choose_metric(task, request.metric),
            checkpoints=checkpoints,
            base=base,
            splits=splits,
            collectives=collectives,
            inputs=inputs,
            state=state,
            record=JobInputs(state),
            on_event=on_event,
            earlier=_earlier(request, collectives),
        )
        with attempt(job):
            yield job


def _earlier(request: Request, collectives: Collectives) -> Earlier | None:
    """Of a curve, whatever is asked for it: an average has no use for it."""
    if request.kind != CURVE or request.curve_earlier is None:
        return None
    return read_earlier(Path(request.curve_earlier), collectives)


def _discover(request: Request) -> CheckpointSet:
    try:
        return _discovered(request)
    except CheckpointError as error:
        if error.code == "no-checkpoints" and (swapped := _with_checkpoints(request.data_paths)) is not None:
            told = f"{error.message} `{swapped}`, given as the validation set, holds some: are the two swapped?"
            raise CheckpointError(error.code, told) from error
        raise


def _with_checkpoints(paths: Sequence[Path]) -> Path | None:
    """The first of these that is a folder of checkpoints."""
    for path in paths:
        with suppress(CheckpointError, OSError, ValueError):
            if discover(path).checkpoints:
                return path
    return None


def _discovered(request: Request) -> CheckpointSet:
    def find_without(names: Sequence[str]) -> CheckpointSet:
        # What was given is checked where it is used.
        given = [request.exclude] if isinstance(request.exclude, str) else request.exclude
        return discover(
            request.ckpt_dir,
            pattern=request.pattern,
            exclude=[*(given or ()), *names] if names else given,
            last=request.last,
            steps=request.steps,
            order=request.order,
            use_ema=request.use_ema,
            like=request.like,
            skip_tensors=request.skip_tensors,
            take_from=request.take_from,
            component=request.component,
        )

    found = find_without(())
    if request.base is not None:
        found = with_ancestor(found, request.base, find_without)
    checkpoints = in_space(found, request.adapter_space)
    if checkpoints.adapters is None:
        refuse_for_whole_models(request.adapter_space, request.adapter_rank, request.adapter_error, request.base_model)
    refuse_other_format(checkpoints, request.output_format)
    return checkpoints
