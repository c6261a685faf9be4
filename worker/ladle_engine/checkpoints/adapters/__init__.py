"""LoRA adapters of PEFT: small factors `B A` that are added to the weights of a base model."""
