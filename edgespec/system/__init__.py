"""The machine and its files: nothing here knows of language models."""
