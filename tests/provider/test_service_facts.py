"""What a service is said to do, from the states of its parts."""

from __future__ import annotations

import pytest

from airflow_provider_llmops.backends.serving.base import Revision, Service
from airflow_provider_llmops.states import ServiceState


@pytest.mark.parametrize(
    ("state", "traffic", "is_reachable", "serves"),
    [
        (ServiceState.READY, 100, True, True),
        (ServiceState.READY, 100, False, False),
        (ServiceState.READY, 0, True, False),
        (ServiceState.FAILED, 100, True, False),
    ],
)
def test_a_service_serves_where_its_address_and_a_revision_with_traffic_do(
    state: ServiceState, traffic: int, is_reachable: bool, serves: bool
) -> None:
    revisions = {"00001": Revision("00001", state, "http://127.0.0.1:9", traffic)}
    service = Service("m", "default", "http://127.0.0.1:8", revisions, "2030-01-01", is_reachable)
    assert (service.is_serving, service.is_newer_than("2020-01-01")) == (serves, serves)
