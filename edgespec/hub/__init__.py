"""Which file a model's name means, and how to get it."""
