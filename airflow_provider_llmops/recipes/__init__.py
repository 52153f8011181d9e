"""Products described in YAML instead of Python: read and checked, and made into DAGs."""
