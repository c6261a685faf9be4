"""Results to the Hugging Face Hub: `ladle push`. Only `push` needs the library huggingface_hub, when it is called."""
