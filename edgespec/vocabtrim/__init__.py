"""VocabTrim (arXiv 2506.22694): a drafter that keeps only the vocabulary rows its target really uses.

`counts` says which tokens occur, `choose` picks those to keep, `rewrite` writes the smaller GGUF, `prove` holds its
logits against the full model's, `trimmed` reads what a trimmed file says of itself.
"""
