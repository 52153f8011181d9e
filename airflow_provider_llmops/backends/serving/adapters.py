"""LoRA adapters of a served model: fetched into the pod beside the model, and asked for by their names.

KServe's huggingfaceserver takes them where vLLM serves the model, and so does vLLM's own server.

References: https://docs.vllm.ai/en/stable/features/lora.html,
https://kserve.github.io/website/docs/model-serving/storage/multiple-storage-uris
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_llmops.backends.kubernetes.manifests import DNS_LABEL
from airflow_provider_llmops.exceptions import ConfigurationError, shown_value
from airflow_provider_llmops.specs.allowed_code import argument_name, is_short_for
from airflow_provider_llmops.uris import file_address, place_of, scheme_of

MODEL_PATH = "/mnt/models"  # where KServe's runtimes look for the model
# KServe mounts what it fetches below one directory, which nothing else may be mounted into, and a claim as a whole.
_FETCHED, _CLAIMED = "/mnt/adapters", "/claims"
_MAX_NAME = 48  # it is part of a volume's name
_OPTION = "--lora-modules"
_TAKEN = ("enable_lora", "lora_modules")


@dataclass(frozen=True)
class Adapters:
    """What a predictor with adapters has in place of the one address of its model.

    :param storage: ``storageUris`` of the predictor
    :param arguments: of its server
    """

    storage: list[dict[str, str]]
    arguments: list[str]


def adapters_of(name: str, model_uri: str, given: Any, args: Mapping[str, Any]) -> Adapters:
    """A model with its adapters.

    :param name: of the service
    :param model_uri: where the model lies
    :param given: by the name that clients ask for, where each adapter lies
    :param args: arguments of the server that the author gives
    :raises ConfigurationError: a name or an address is none, or the arguments say otherwise
    """
    what = f"lora_adapters of service {name!r}"
    if not isinstance(given, Mapping) or not given:
        raise ConfigurationError(
            f"{what} must be a dict with the address of each adapter by its name, got {shown_value(given, 60)}."
        )
    for adapter, uri in given.items():
        _check(what, name, adapter, uri)
    _check_arguments(what, args)
    model_at, model_mount = _place(model_uri, MODEL_PATH, MODEL_PATH)
    if model_at != MODEL_PATH and any(argument_name(each) == "model_dir" for each in args):
        raise ConfigurationError(
            f"args of service {name!r} set model_dir, which a model in a claim with {what} has already: {model_at}. Leave it out."
        )
    places = {
        adapter: _place(uri, f"{_FETCHED}/{adapter}", f"{_CLAIMED}/{adapter}")
        for adapter, uri in given.items()
    }
    addresses = {model_mount: model_uri, **{mount: given[adapter] for adapter, (_, mount) in places.items()}}
    return Adapters(
        storage=[
            {"uri": file_address(uri) if uri.startswith("/") else uri, "mountPath": mount}
            for mount, uri in addresses.items()
        ],
        arguments=[
            *([f"--model_dir={model_at}"] if model_at != MODEL_PATH else []),
            "--enable-lora",
            _OPTION,
            *(f"{adapter}={at}" for adapter, (at, _) in places.items()),
        ],
    )


def adapter_names(arguments: Iterable[str]) -> list[str]:
    """Names of the adapters that a server has, from its arguments.

    :param arguments: of the container
    """
    names, are_adapters = [], False
    for word in arguments:
        if word.startswith("--"):
            are_adapters = word == _OPTION
        elif are_adapters:
            names.append(word.partition("=")[0])
    return names


def _check(what: str, service: str, adapter: Any, uri: Any) -> None:
    if not isinstance(adapter, str) or not DNS_LABEL.fullmatch(adapter) or len(adapter) > _MAX_NAME:
        raise ConfigurationError(
            f"{what}: {shown_value(adapter, 60)} is no name of an adapter: 1 to {_MAX_NAME} lower-case letters, digits and '-', which "
            "begin and end with a letter or digit."
        )
    if adapter == service:
        raise ConfigurationError(
            f"{what}: {adapter!r} is the name of the model itself. Call the adapter otherwise."
        )
    if not isinstance(uri, str) or not (uri.startswith("/") or scheme_of(uri)):
        raise ConfigurationError(
            f"{what}: adapter {adapter!r} needs an address such as s3://bucket/path, got {shown_value(uri, 60)}."
        )
    if scheme_of(uri) == "pvc" and set("=,") & set(uri):
        raise ConfigurationError(
            f"{what}: vLLM cannot be given the place of adapter {adapter!r}, since it has '=' or ',' in it: {shown_value(uri, 60)}. Call the "
            "directory otherwise."
        )


def _check_arguments(what: str, args: Mapping[str, Any]) -> None:
    if given := [str(each) for each in args if any(is_short_for(argument_name(each), own) for own in _TAKEN)]:
        raise ConfigurationError(
            f"args have {', '.join(given)} beside {what}, which say the same. Leave one of them out."
        )
    backend = next((value for each, value in args.items() if argument_name(each) == "backend"), "vllm")
    if str(backend) not in ("vllm", "auto"):
        raise ConfigurationError(
            f"args have backend={shown_value(backend, 40)} beside {what}: vLLM alone serves adapters. Leave the argument out."
        )


def _place(uri: str, fetched_to: str, claim_at: str) -> tuple[str, str]:
    """Where something lies in the pod, and where KServe mounts it: what an address of a claim names inside of it, KServe leaves out."""
    if scheme_of(uri) != "pvc":
        return fetched_to, fetched_to
    inside = place_of(uri).partition("/")[2].strip("/")
    return (f"{claim_at}/{inside}" if inside else claim_at), claim_at
