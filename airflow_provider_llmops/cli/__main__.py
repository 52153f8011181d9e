"""``python -m airflow_provider_llmops.cli``."""

from airflow_provider_llmops.cli import main

raise SystemExit(main())
