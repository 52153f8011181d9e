"""Services on a cluster with KServe."""
