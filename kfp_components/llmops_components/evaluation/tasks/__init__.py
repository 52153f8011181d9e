"""Verifiable tasks: answers that are right or wrong by a rule, and not by likeness."""
