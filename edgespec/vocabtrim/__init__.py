"""VocabTrim (arXiv 2506.22694): a drafter that keeps only the vocabulary rows that its target uses.

`collect` counts tokens, `selection` ranks them, `writer` writes the smaller GGUF, `equivalence` compares its logits
with the full model's, `format` reads how a file was trimmed, `pipeline` does all of it.
"""
