"""Why averaging helps or does not: lines between checkpoints, basins, the loss plane; see docs/methods/diagnose.md."""
