"""Jobs on Slurm: one allocation per attempt, and one task per machine of it."""
