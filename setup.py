"""What pyproject.toml cannot say: the example DAGs lie outside of the package that they are shipped in."""

from setuptools import find_packages, setup

EXAMPLE_DAGS = "airflow_provider_llmops.example_dags"  # where Airflow looks for the examples of a provider

setup(
    packages=[*find_packages(include=["airflow_provider_llmops*"]), EXAMPLE_DAGS],
    package_dir={EXAMPLE_DAGS: "dags"},
)
