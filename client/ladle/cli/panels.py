"""How `ladle --help` groups the commands, and in which order."""

AVERAGE = "Average checkpoints"
JOBS = "Jobs of a service"
RESULTS = "Results"
MACHINES = "Service and machines"
HERE = "Catalogue and checks"

ORDER = (AVERAGE, JOBS, RESULTS, HERE, MACHINES)
