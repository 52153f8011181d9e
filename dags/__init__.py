"""Example DAGs; in the wheel, `airflow_provider_llmops.example_dags`."""
