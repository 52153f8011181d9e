"""A cluster, its pods and its messages, whatever runs there."""
