"""A chain of DAGs over the partitions that it lacks: what is there, what would be run and what it takes, and running it."""
