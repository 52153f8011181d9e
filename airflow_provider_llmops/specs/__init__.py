"""What a pipeline specification is, and whether it may be run."""
