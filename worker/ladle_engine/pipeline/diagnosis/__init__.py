"""Why averaging helps or does not: lines between checkpoints, basins and the loss plane; see docs/diagnose.md."""
