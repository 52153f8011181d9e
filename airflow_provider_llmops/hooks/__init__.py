"""Hooks: one for each connection type."""
