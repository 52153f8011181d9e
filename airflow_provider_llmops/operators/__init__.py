"""Operators: one for each component, named like it."""
