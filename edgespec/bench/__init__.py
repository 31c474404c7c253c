"""The benchmark: drafters against plain decoding and against other programs, on the same prompts, side by side."""
