"""The benchmark: drafters, plain decoding and other programs on the same prompts, side by side."""
