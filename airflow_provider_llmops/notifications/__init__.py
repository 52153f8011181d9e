"""Notifiers: what happens when a task fails or succeeds."""
