"""Metrics by name: what each needs, and how answers are scored with it."""
