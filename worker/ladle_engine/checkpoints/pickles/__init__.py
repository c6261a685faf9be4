"""Files that torch pickles: their tensors are found, and nothing that they name is run."""
