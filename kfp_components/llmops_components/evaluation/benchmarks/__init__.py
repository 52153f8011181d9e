"""Benchmark tasks of lm-evaluation-harness, by name: which may run, running them, and their scores sample by sample."""
