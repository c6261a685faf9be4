"""How training tools lay out one checkpoint as a folder: one file per tool, and a registry of all."""
