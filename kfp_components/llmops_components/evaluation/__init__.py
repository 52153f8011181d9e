"""Evaluation: answers of a model, scored, compared with a baseline and reported."""
