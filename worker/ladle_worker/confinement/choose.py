"""Which protections this worker uses: what the operator asks for, and what the kernel grants."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from ladle_worker.confinement import landlock
from ladle_worker.confinement.plan import NETWORK, PORTS, PROTECTIONS

logger = logging.getLogger(__name__)

AUTO, OFF = "auto", "off"


class CannotConfine(RuntimeError):
    """The operator asks for a protection that the kernel refuses."""


def read_choice(value: Any) -> Any:
    """`auto`, `off` or names with commas between. Raises ValueError."""
    if not isinstance(value, str) or value in (AUTO, OFF):
        return (value,) if isinstance(value, str) else value
    names = tuple(part.strip() for part in value.split(","))
    unknown = [name for name in names if name not in PROTECTIONS]
    if unknown:
        raise ValueError(f"must be `auto`, `off` or some of {', '.join(PROTECTIONS)}, but has {unknown[0]!r}")
    return names


def choose(asked: tuple[str, ...], granted: Mapping[str, str], *, gpus: bool) -> tuple[str, ...]:
    """`granted` is the probe's answer. Says once in the log what does not hold, and why. Raises `CannotConfine`."""
    if asked == (OFF,):
        logger.warning("LADLE_CONFINE=off: ranks may do all that this user may")
        return ()
    if asked != (AUTO,):
        for name in asked:
            if granted[name]:
                raise CannotConfine(f"`LADLE_CONFINE` asks for `{name}`, but {granted[name]}.")
        return asked
    chosen = [name for name in PROTECTIONS if not granted[name]]
    for name in PROTECTIONS:
        if granted[name]:
            logger.warning("ranks are not confined in their %s: %s", name, granted[name])
    if gpus and NETWORK in chosen:
        logger.warning("ranks are not confined in their network, because NCCL may need more than the loopback device")
        chosen.remove(NETWORK)
    if NETWORK in chosen and PORTS in chosen:
        # A network of their own is the stronger of the two.
        chosen.remove(PORTS)
    logger.info("ranks are confined in their %s", ", ".join(chosen) or "nothing")
    return tuple(chosen)


def among_nodes(protections: Collection[str]) -> tuple[str, ...]:
    """What is left where ranks must reach other nodes: some ports, in the place of a network of their own."""
    if NETWORK not in protections:
        return tuple(protections)
    instead = {PORTS} if landlock.version() >= landlock.HAS_PORTS else set()
    kept = {*protections, *instead} - {NETWORK}
    return tuple(name for name in PROTECTIONS if name in kept)
