"""Running compiled pipelines on one machine, without a cluster."""
