"""Where the ranks of an attempt run."""
