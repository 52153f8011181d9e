"""A cluster, its pods, messages and manifests, whatever runs there."""
