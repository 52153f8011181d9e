"""Training: one module for each trainer, and what they share: load, build, run, save."""
