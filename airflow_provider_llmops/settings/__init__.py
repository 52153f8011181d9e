"""Kubernetes settings of steps: what may be set, written into a specification."""
