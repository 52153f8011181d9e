"""Rows that say the same: exact and near duplicates with the row that was kept, and rows of an evaluation in training data."""
