"""Checkpoints of torch.distributed.checkpoint (DCP): each rank's chunks in files of its own, and what says where.

No process group, no gathering, and nothing of a file is run: chunks are read straight from where they stand.
"""
