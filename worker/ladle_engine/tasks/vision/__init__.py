"""What the tasks with images share: the libraries that models come from, what happens to images, and their metrics."""
