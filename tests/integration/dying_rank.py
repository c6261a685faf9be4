"""A rank that dies without a word of its own."""

import os
import sys

print("the rank dies here", flush=True)
sys.stdout.flush()
os._exit(3)
