"""The merge curve: the best average that ends at each checkpoint of a run, beside the checkpoint itself."""
