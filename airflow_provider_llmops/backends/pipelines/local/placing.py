"""Addresses as paths of this machine: what cannot be read here is refused before anything starts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

from airflow_provider_llmops import uris
from airflow_provider_llmops.specs.ir import translate_imports
from airflow_provider_llmops.specs.pipeline import BoundPipeline

_IMPORTED = replace(uris.ANY_ARTIFACT, exists=False)


def place(pipeline: BoundPipeline, addresses: Mapping[str, uris.Address]) -> BoundPipeline:
    """The pipeline with paths where it had addresses.

    :param pipeline: the pipeline with its parameters
    :param addresses: inputs that name places, with what each may be
    :raises ConfigurationError: an address is of another place
    """
    parameters = dict(pipeline.parameters)
    for parameter, name in pipeline.artifact_parameters.items():
        expected = addresses.get(name, uris.ANY_ARTIFACT)
        parameters[parameter] = uris.on_this_machine(name, parameters[parameter], expected)
    for name, expected in addresses.items():
        # Without text there is none: a template may render to nothing.
        if isinstance(address := parameters.get(name), str) and address:
            uris.on_this_machine(name, address, expected)
    spec = copy.deepcopy(pipeline.spec)
    translate_imports(spec, parameters, _import_here)
    return replace(pipeline, spec=spec, parameters=parameters)


def _import_here(step: str, address: str) -> str:
    if not uris.scheme_of(address):
        return address  # a path that an earlier step may make
    return uris.on_this_machine(f"The importer {step}", address, _IMPORTED)
