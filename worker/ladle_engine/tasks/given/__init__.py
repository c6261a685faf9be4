"""What a notebook gives in Python instead of naming a task and a path: data, a loss and metrics."""
