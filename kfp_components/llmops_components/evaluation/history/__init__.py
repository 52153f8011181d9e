"""Evaluations by partition: a record of each, how it differs from the one before, and the trend of all as a page."""
