"""What the tasks on texts share: tokenizers, models of transformers, lengths and padding."""
