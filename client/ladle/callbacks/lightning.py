"""For Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Unpack

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from ladle._options import SpecOptions
from ladle._spec import ValSet
from ladle.callbacks._run import OWN_FOLDER, AveragedRun
from ladle.callbacks._snapshots import full_state, is_main_rank, is_sharded
from ladle.callbacks.keeper import CheckpointKeeper


class LadleCallback(Callback):
    """Keeps checkpoints while Lightning trains, and averages them at the end.

        trainer = Trainer(callbacks=[LadleCallback("val.npz", every=100, last=10, module="model")])
        trainer.fit(module)

    Checkpoints are safetensors files in `ladle/checkpoints` of the run's folder, which is the logger's unless `folder`
    says another. At the end the averaged model is in `averaged` there, and its metrics are in all loggers:
    `ladle/accuracy` of the averaged model, `ladle/best_accuracy` of the best checkpoint, and so on. Both are Ladle's
    numbers, on the select split of the validation set.

    No error of Ladle's ends a training. Where a checkpoint cannot be kept or the average cannot be made, a warning says
    so; the second one has the command that averages the checkpoints later. A training that is resumed from a checkpoint
    of Lightning's continues in the folder of the one before.

    Args:
        val_set: the validation set, as for `ladle.submit`.
        every: keep a checkpoint each so many optimiser steps (`trainer.global_step`).
        last: keep only the newest this many.
        module: the part of the LightningModule that is the model, such as `model`. By default all of it.
        config: is written beside the weights as `config.json`. Models of transformers and PEFT write their own files.
        folder: the run's folder.
        average_every: average after each so many checkpoints too, while the training goes on, and log the curve.
        wait: whether the end of the training waits for the result. Without a service it always does, because the
            stack ends with this process.
        options: those of `ladle.submit`, such as `task` and `metric`.
    """

    def __init__(
        self,
        val_set: ValSet,
        *,
        every: int,
        last: int | None = None,
        module: str = "",
        config: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
        average_every: int | None = None,
        wait: bool = True,
        **options: Unpack[SpecOptions],
    ) -> None:
        self._home = None if folder is None else Path(folder).expanduser().absolute()
        self._val_set, self._options = val_set, options
        self._every, self._last, self._module, self._config = every, last, module, config
        self._average_every, self._wait = average_every, wait
        self._earlier: str | None = None
        self._trainer: Trainer | None = None
        self.keeper: CheckpointKeeper | None = None
        self.run: AveragedRun | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Options and paths that are wrong are refused here, before anything is trained."""
        if getattr(trainer, "fast_dev_run", False):
            return
        self._trainer = trainer
        # On every rank, because the folder of a log is agreed upon.
        of_the_run = Path(trainer.log_dir or trainer.default_root_dir).absolute()
        home = self._home or (Path(self._earlier) if self._earlier else of_the_run)
        self._earlier = str(home)
        self.model_of(pl_module)
        folder = home / OWN_FOLDER / "checkpoints"
        self.keeper = CheckpointKeeper(folder, every=self._every, last=self._last, config=self._config)
        self.run = AveragedRun(
            home,
            folder,
            self._val_set,
            self._options,
            average_every=self._average_every,
            wait=self._wait,
            log=self._log,
        )
        if is_main_rank():
            self.run.begin()
        self.keeper.begin(trainer.global_step + 1)
        self.keeper.in_use, self.keeper.on_kept = self.run.in_use, self._kept_one

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.keeper is None or self.run is None:
            return
        if is_main_rank():
            self.run.poll()
        if self.keeper.is_due(trainer.global_step):
            self._keep(trainer, pl_module, self.keeper)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.keeper is None or self.run is None:
            return
        self.keeper.tell()
        self.run.finish(self.keeper.steps, self.keeper.missing)
        with suppress(OSError):
            self.keeper.remove_others()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.keeper is not None and self.run is not None:
            self.keeper.tell()
            self.run.close()

    def state_dict(self) -> dict[str, Any]:
        """The run's folder, because a resumed training gets another one from its logger."""
        return {} if self._earlier is None else {"folder": self._earlier}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        folder = state_dict.get("folder")
        self._earlier = folder if folder and Path(folder).is_dir() else None

    def model_of(self, pl_module: LightningModule) -> nn.Module:
        """The part that is the model. Raises ValueError where there is none of that name."""
        try:
            return pl_module.get_submodule(self._module)
        except AttributeError as error:
            there = ", ".join(name for name, _ in pl_module.named_children())
            raise ValueError(
                f"`module` must be a part of the LightningModule ({there}), but is {self._module!r}."
            ) from error

    def _keep(self, trainer: Trainer, pl_module: LightningModule, keeper: CheckpointKeeper) -> None:
        whole = trainer.strategy.model or pl_module
        if not is_sharded(whole):
            if is_main_rank():
                keeper.keep_model(trainer.global_step, self.model_of(pl_module))
            return
        state = full_state(whole)
        prefix = f"{self._module}." if self._module else ""
        part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if is_main_rank():
            keeper.keep_model(trainer.global_step, self.model_of(pl_module), part)

    def _kept_one(self, step: int) -> None:
        assert self.run is not None
        assert self.keeper is not None
        self.run.kept(self.keeper.written)

    def _log(self, numbers: Mapping[str, float]) -> None:
        assert self._trainer is not None
        for logger in self._trainer.loggers:
            logger.log_metrics(dict(numbers), step=self._trainer.global_step)
