"""What to draft, and whether to draft at all."""
