"""What this machine makes of a model, measured on purpose."""
