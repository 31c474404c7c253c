"""T(n), the time of one forward pass of n rows."""
