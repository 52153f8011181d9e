"""Pipeline runs on Kubeflow Pipelines, through its REST API."""
