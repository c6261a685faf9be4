"""How `ladle --help` groups the commands. Panels stand there in the order in which they first appear."""

AVERAGE = "Average checkpoints"
JOBS = "Jobs of a service"
RESULTS = "Results"
MACHINES = "Service and machines"
HERE = "Catalogue and checks"
