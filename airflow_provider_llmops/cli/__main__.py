"""``python -m airflow_provider_llmops.cli``."""

from airflow_provider_llmops.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
