"""Settings for Slurm that are wrong are explained when the dispatcher starts."""

from __future__ import annotations

import logging
import shutil
from importlib.util import find_spec

from pydantic import ValidationError

from ladle_contracts.environment import explain_settings
from ladle_worker.launch.launcher import WrongLauncher
from ladle_worker.launch.slurm.commands import FOR_NOW, SlurmAway, SlurmRefused, longest_time
from ladle_worker.launch.slurm.settings import SlurmSettings, read_time
from ladle_worker.launch.slurm.submit import rehearse

logger = logging.getLogger(__name__)

COMMANDS = ("sbatch", "srun", "scancel", "squeue", "scontrol")


def check_slurm() -> None:
    """Raises `WrongLauncher`."""
    try:
        settings = SlurmSettings()
    except ValidationError as error:
        told = [line.replace("`LADLE_", "`LADLE_SLURM_", 1) for line in explain_settings(error)]
        raise WrongLauncher("\n".join(told)) from error
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        raise WrongLauncher(f"`LADLE_LAUNCHER=slurm` needs the command `{missing[0]}` on PATH: install Slurm's client.")
    if find_spec("submitit") is None:
        raise WrongLauncher("`LADLE_LAUNCHER=slurm` needs submitit: install it with `pip install 'ladle[slurm]'`.")
    if settings.setup is not None and not settings.setup.is_file():
        raise WrongLauncher(f"`LADLE_SLURM_SETUP` must be a shell script, but there is no file `{settings.setup}`.")
    try:
        rehearse(settings)
        _check_time(settings)
    except SlurmAway as error:
        logger.warning("Slurm does not answer yet, and jobs wait until it does: %s", error)
    except SlurmRefused as error:
        if not FOR_NOW.search(str(error)):
            raise WrongLauncher(
                f"Slurm would refuse every job: {error}. Look at the settings `LADLE_SLURM_*`."
            ) from error
        logger.warning("Slurm would not start a job now: %s", error)


def _check_time(settings: SlurmSettings) -> None:
    """Slurm takes jobs that ask for too much, and lets them wait for ever. Raises `WrongLauncher` or as `ask`."""
    # Several partitions may be named: then the longest time is not known.
    longest = "" if "," in (settings.partition or "") else longest_time(settings.partition)
    if longest and settings.time > read_time(longest):
        raise WrongLauncher(
            f"`LADLE_SLURM_TIME` must be at most {longest}, the longest time of the partition, but is longer. "
            "Without the setting it is a day."
        )
