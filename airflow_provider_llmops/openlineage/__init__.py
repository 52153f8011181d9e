"""What OpenLineage is told of a task, where Airflow's provider for it is installed: what it reads and makes, and what it has found."""
