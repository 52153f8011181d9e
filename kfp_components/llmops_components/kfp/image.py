"""The container image that the components run in on a cluster; built from ``kfp_components/Dockerfile``."""

IMAGE = "llmops-components:0.1.0"
