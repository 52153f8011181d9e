"""Apache Airflow provider for LLM post-training on Kubeflow Pipelines and KServe, or on one machine."""

__version__ = "0.1.0"
