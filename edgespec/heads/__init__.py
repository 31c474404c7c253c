"""Heads: small layers that draft from the target's hidden states; their training and their files."""
