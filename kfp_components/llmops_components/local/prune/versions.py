"""The model versions in MLflow, for whose sake runs are kept."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field

from llmops_components.errors import UnavailableError


@dataclass
class Version:
    """A model version in MLflow: where its model is said to be, and the digests among its tags."""

    name: str
    version: str
    source: str = ""
    digests: Collection[str] = field(default_factory=frozenset)

    def __str__(self) -> str:
        return f"{self.name} version {self.version} in MLflow"


def read_versions(tracking_uri: str) -> list[Version]:
    """Every model version that MLflow has.

    Args:
        tracking_uri: Its address; credentials are in the environment.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from llmops_components.tracking.client import PATIENCE, environment_variables, past_proxies

    patience = {key: os.environ.get(key, value) for key, value in PATIENCE.items()}
    found: list[Version] = []
    token = None
    try:
        environment = {**patience, **past_proxies(tracking_uri), "MLFLOW_DISABLE_TELEMETRY": "true"}
        with environment_variables(environment):
            client = MlflowClient(tracking_uri)
            while True:
                page = client.search_model_versions(max_results=1000, page_token=token)
                for each in page:
                    digests = {value for value in each.tags.values() if value.startswith("sha256:")}
                    found.append(Version(each.name, str(each.version), each.source or "", digests))
                if not (token := page.token):
                    return found
    except (MlflowException, OSError) as error:
        raise UnavailableError(
            f"MLflow did not say which model versions there are: {str(error)[:300]}. Nothing was removed."
        ) from error
