"""For the Trainer of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ladle._options import SpecOptions
from ladle._spec import ValSet
from ladle.callbacks._hugging_face import saves_itself, trained_part
from ladle.callbacks._kept_folder import steps_in
from ladle.callbacks._run import OWN_FOLDER, AveragedRun
from ladle.callbacks._snapshots import is_main_rank
from ladle.callbacks.keeper import CheckpointKeeper, write_weights


class LadleCallback(TrainerCallback):
    """Keeps checkpoints while a Trainer trains, and averages them at the end.

        trainer.add_callback(LadleCallback(trainer, val_set="val.npz", every=100, last=10))
        trainer.train()

    At the end the averaged model is in `output_dir/averaged`, beside the Trainer's best one, and its metrics are in the
    trackers: `ladle/accuracy` of the averaged model, `ladle/best_accuracy` of the best checkpoint, and so on. Both are
    Ladle's numbers, on the select split of the validation set.

    No error of Ladle's ends a training. Where a checkpoint cannot be kept or the average cannot be made, a warning says
    so; the second one has the command that averages the checkpoints later.

    Args:
        trainer: the one that the callback is added to.
        val_set: the validation set, as for `ladle.submit`.
        every: keep a checkpoint each so many steps, as `output_dir/ladle/checkpoints/checkpoint-100`, written while the
            training goes on. By default nothing is written twice: the Trainer's own checkpoints are averaged, and its
            `save_strategy` says how many there are.
        last: keep only the newest this many; of the Trainer's own, average only these.
        average_every: average after each so many checkpoints too, while the training goes on, and log the curve.
        wait: whether the end of the training waits for the result. Without a service it always does, because the
            stack ends with this process.
        options: those of `ladle.submit`, such as `task` and `metric`.
    """

    def __init__(
        self,
        trainer: Trainer,
        val_set: ValSet,
        *,
        every: int | None = None,
        last: int | None = None,
        average_every: int | None = None,
        wait: bool = True,
        **options: Unpack[SpecOptions],
    ) -> None:
        self.trainer = trainer
        home = Path(str(trainer.args.output_dir)).absolute()
        self.keeper: CheckpointKeeper | None = None
        folder = home
        if every is not None:
            folder = home / OWN_FOLDER / "checkpoints"
            self.keeper = CheckpointKeeper(folder, every=every, last=last)
        elif average_every is not None and trainer.args.save_total_limit is not None:
            raise ValueError(
                "`average_every` must not be given together with `save_total_limit`, which removes checkpoints while "
                "they are averaged. Let Ladle keep its own: give `every` and `last`."
            )
        self.last = last
        self.run = AveragedRun(home, folder, val_set, options, average_every=average_every, wait=wait, log=self._log)
        if self.keeper is not None:
            self.keeper.in_use, self.keeper.on_kept = self.run.in_use, self._kept_one

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Options and paths that are wrong are refused here, before anything is trained."""
        if is_main_rank():
            self.run.begin()
        if self.keeper is not None:
            self.keeper.begin(state.global_step + 1)
        # Before those that end a tracker's run in their own `on_train_end`.
        handler = self.trainer.callback_handler
        handler.callbacks = [self, *(each for each in handler.callbacks if each is not self)]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        if is_main_rank():
            self.run.poll()
        if self.keeper is not None and self.keeper.is_due(state.global_step):
            self._keep(self.keeper, state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        if self.keeper is None and is_main_rank():
            self.run.kept(self._own_steps())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        if self.keeper is None:
            self.run.finish(self._own_steps(), {})
        else:
            self.keeper.tell()
            self.run.finish(self.keeper.steps, self.keeper.missing)
            with suppress(OSError):
                self.keeper.remove_others()

    def _keep(self, keeper: CheckpointKeeper, step: int) -> None:
        trainer = self.trainer
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        state = None
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            # On every rank, because the weights are gathered.
            state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if is_main_rank():
            state = model.state_dict() if state is None else state
            keeper.keep(step, trained_part(model, state), partial(self._write, model))

    def _write(self, model: Any, folder: Path, state: dict[str, Tensor]) -> None:
        """What the Trainer writes for its own checkpoints, without what resumes a training."""
        if saves_itself(model):
            model.save_pretrained(folder, state_dict=state)
        else:
            write_weights(folder, state)
        processing = self.trainer.processing_class or getattr(self.trainer.data_collator, "tokenizer", None)
        if processing is not None:
            processing.save_pretrained(folder)

    def _kept_one(self, step: int) -> None:
        assert self.keeper is not None
        self.run.kept(self.keeper.written)

    def _own_steps(self) -> list[int]:
        """Of the Trainer's checkpoints, without those of an earlier training in the same folder that went further."""
        if not is_main_rank():
            return []
        steps = [step for step in steps_in(self.run.folder) if step <= self.trainer.state.global_step]
        return steps if self.last is None else steps[-self.last :]

    def _log(self, numbers: Mapping[str, float]) -> None:
        # Logging clears it, and the Trainer's own numbers of this step would be lost.
        should_log = self.trainer.control.should_log
        self.trainer.log(dict(numbers))
        self.trainer.control.should_log = should_log
