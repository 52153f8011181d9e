"""What a backend offers is what its protocol says, argument by argument; a backend has no method that it refuses."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from airflow_provider_llmops.backends.pipelines.base import (
    PipelineBackend,
    PipelineMachine,
    PipelineServer,
    server_of,
)
from airflow_provider_llmops.backends.pipelines.kubeflow.backend import KubeflowPipelineBackend
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.backends.pipelines.local.backend import LocalPipelineBackend
from airflow_provider_llmops.backends.serving.base import ServingBackend
from airflow_provider_llmops.backends.serving.kserve.standard import StandardServingBackend
from airflow_provider_llmops.backends.serving.local import LocalServingBackend
from airflow_provider_llmops.exceptions import ConfigurationError

BACKENDS = [
    (LocalPipelineBackend, PipelineMachine),
    (KubeflowPipelineBackend, PipelineServer),
    (LocalServingBackend, ServingBackend),
    (StandardServingBackend, ServingBackend),
]


def methods(kind: Any) -> dict[str, list[tuple[str, Any, Any]]]:
    """Name, kind and default of each argument of each public method."""
    return {
        name: [(each.name, each.kind, each.default) for each in inspect.signature(value).parameters.values()]
        for name, value in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(("backend", "protocol"), BACKENDS, ids=[each[0].__name__ for each in BACKENDS])
def test_backend_takes_the_arguments_of_its_protocol_in_their_order(backend, protocol):
    offered, asked = methods(backend), methods(protocol)
    assert {name: offered.get(name) for name in asked} == asked


def test_what_only_a_server_or_only_this_machine_can_do_is_asked_for(backend):
    server = KubeflowPipelineBackend(KfpSettings(conn_id="kubeflow_default", endpoint="http://127.0.0.1:9"))
    assert isinstance(server, PipelineServer)
    assert not isinstance(server, PipelineMachine)
    assert isinstance(backend, PipelineMachine)
    assert not isinstance(backend, PipelineServer)
    assert server_of(server, "Pipeline 'x'") is server
    with pytest.raises(ConfigurationError, match=r"^Pipeline 'x' needs a server of Kubeflow Pipelines"):
        server_of(backend, "Pipeline 'x'")
    only = {name for name in methods(PipelineServer) if name not in methods(PipelineBackend)}
    assert not only & methods(LocalPipelineBackend).keys()
