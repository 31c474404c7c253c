"""GGUF files: read, checked and written, without llama.cpp."""
