"""Before any test imports torch."""

import os

# Toy models gain nothing from threads, and where other processes want the cores, threads that wait for each other make
# these tests ten times as slow. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
