"""Addresses in the web interface of Kubeflow Pipelines."""

from __future__ import annotations

from urllib.parse import quote

from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.uris import place_of, scheme_of

# By the scheme of an address, what the web interface calls the store.
_STORES = {"minio": "minio", "s3": "s3", "gs": "gcs"}


def run_page(settings: KfpSettings, run_id: str) -> str:
    """Address of a run's page.

    :param settings: the connection's settings
    :param run_id: the run
    """
    return f"{_base(settings)}/#/runs/details/{run_id}"


def artifact_page(settings: KfpSettings, uri: str) -> str:
    """Address at which the web interface hands an artifact out; empty if it knows no such store.

    :param settings: the connection's settings
    :param uri: address of the artifact
    """
    store = _STORES.get(scheme_of(uri))
    if store is None:
        return ""
    namespace = f"?namespace={quote(settings.namespace)}" if settings.namespace else ""
    return f"{_base(settings)}/artifacts/{store}/{quote(place_of(uri))}{namespace}"


def _base(settings: KfpSettings) -> str:
    return (settings.ui_url or settings.endpoint).rstrip("/")
