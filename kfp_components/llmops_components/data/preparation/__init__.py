"""Preparing rows for training: declared steps, each drop and change in a ledger, the same output from any number of processes."""
