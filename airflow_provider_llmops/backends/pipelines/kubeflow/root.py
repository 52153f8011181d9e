"""Whether steps can write below a pipeline root, by the rules of Kubeflow Pipelines.

Its driver looks the root's scheme up in ``providers`` of the config map ``kfp-launcher`` in the run's namespace
(``GetStoreSessionInfo`` and ``ProvideSessionInfo`` in ``backend/src/v2/config``):

* ``minio://`` without settings is the store of the installation, with its secret ``mlpipeline-minio-artifact``;
* ``s3://`` and ``gs://`` without settings, and ``s3://`` and ``minio://`` with a query, take the credentials that the pods
  find by themselves: variables, a role of the node or of the service account;
* settings need ``default.credentials``, and credentials ``fromEnv: true`` or a ``secretRef``; so does the first of
  ``overrides`` that fits, which takes its place;
* nothing else is a root.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_llmops.backends.pipelines.kubeflow.pods import RunPods
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.exceptions import ConfigurationError, LLMOpsError, shown_value
from airflow_provider_llmops.in_time import in_time

log = logging.getLogger(__name__)

ROOT_SECONDS = 5.0  # before each run
CONFIG_MAP = "kfp-launcher"
_PROVIDERS = "providers"
_ROOT = re.compile(r"(?P<scheme>[a-z][a-z0-9]+)://(?P<bucket>[^/?]+)(?:/(?P<prefix>[^?]*))?(?P<query>\?.+)?")
_SECRETS = {
    "s3": "{secretName: NAME, accessKeyKey: KEY, secretKeyKey: KEY}",
    "minio": "{secretName: NAME, accessKeyKey: KEY, secretKeyKey: KEY}",
    "gs": "{secretName: NAME, tokenKey: KEY}",
}
_PLACES = {"s3": "endpoint: s3.amazonaws.com, region: REGION, ", "minio": "endpoint: HOST:PORT, ", "gs": ""}


@dataclass(frozen=True)
class RootProblem:
    """Why steps may not be able to write below a root.

    :param message: why, and what to set
    :param is_certain: whether no step can
    """

    message: str
    is_certain: bool


def refuse_root(settings: KfpSettings) -> None:
    """Refuse the connection's pipeline root if no step can write below it; warn if some may not.

    :param settings: the connection's settings
    :raises ConfigurationError: no step can
    """
    problem = root_problem(settings, settings.pipeline_root)
    if problem is None:
        return
    if problem.is_certain:
        raise ConfigurationError(problem.message, f"Pipeline root: {settings.pipeline_root}")
    log.warning("%s", problem.message)


def root_problem(settings: KfpSettings, root: str) -> RootProblem | None:
    """Why steps may not be able to write below a root, where the account may read its settings, and they are read soon.

    :param settings: the connection's settings, which may name a Kubernetes connection
    :param root: the pipeline root of a run
    """
    if not settings.kubernetes_conn_id:
        return None

    def look() -> RootProblem | None:
        pods = RunPods.of(settings)
        return check_root(root, pods.read_config_map(CONFIG_MAP), pods.namespace)

    try:
        return in_time(look, ROOT_SECONDS)
    except LLMOpsError as error:
        log.info("The settings of pipeline roots cannot be read: %s", error)
    except Exception as error:  # whatever it is: it must not stop a run, nor hide why one has failed
        log.warning("The settings of pipeline roots cannot be read: %s: %s", type(error).__name__, error)
    return None


def check_root(root: str, settings: Mapping[str, str] | None, namespace: str) -> RootProblem | None:
    """Why steps may not be able to write below a pipeline root; ``None`` if nothing speaks against it.

    :param root: the pipeline root
    :param settings: what the config map ``kfp-launcher`` holds; ``None`` if there is none
    :param namespace: the config map's, for messages
    """
    match = _ROOT.fullmatch(root)
    scheme = match["scheme"] if match else root.partition(":")[0]
    if match is None or scheme not in _SECRETS:
        return RootProblem(
            f"The steps of a cluster cannot write to {scheme}: addresses; Kubeflow Pipelines takes s3://, gs:// and minio:// "
            f"as pipeline root. Change 'pipeline_root'. It is {shown_value(root, 200)}.",
            is_certain=False,  # what a test server takes, or a later version
        )
    where = f"config map {CONFIG_MAP} of namespace {namespace}"
    try:
        provider = _part(_providers(settings), scheme)
        default, overrides = _part(provider, "default"), _value(provider, "overrides")
    except ValueError as error:
        return RootProblem(
            f"The steps cannot write to {scheme}://: {_PROVIDERS!r} in {where} cannot be read: {error}. {_advice(scheme, where)}",
            is_certain=True,
        )
    has_settings = default is not None or overrides is not None
    if match["query"] and scheme != "gs":
        has_settings = False  # upstream takes everything from the address and the pods' environment then
    if not has_settings:
        if scheme == "minio" and not match["query"]:
            return None
        return RootProblem(
            f"The steps get no credentials for {scheme}:// from Kubeflow Pipelines: {where} has no settings for it, so "
            "each pod has to find its own (variables, a role of its node or service account), or its outputs are lost. "
            f"{_advice(scheme, where)}",
            is_certain=False,
        )
    problem = _problem_of(default, "default")
    if problem is None and (override := _override(overrides, match["bucket"], match["prefix"] or "")):
        problem = _problem_of(override, f"the override of bucket {match['bucket']}")
    if problem is None:
        return None
    return RootProblem(
        f"The steps cannot write to {scheme}://: {problem} in {where}. {_advice(scheme, where)}",
        is_certain=True,
    )


def _advice(scheme: str, where: str) -> str:
    return (
        f"Set {_PROVIDERS!r} in {where} to {scheme}: {{default: {{{_PLACES[scheme]}credentials: {{fromEnv: false, secretRef: "
        f"{_SECRETS[scheme]}}}}}}}, or to {scheme}: {{default: {{credentials: {{fromEnv: true}}}}}} where the steps' service "
        "account brings credentials."
    )


def _providers(settings: Mapping[str, str] | None) -> Any:
    import yaml

    try:
        return yaml.safe_load((settings or {}).get(_PROVIDERS) or "{}")
    except yaml.YAMLError as error:
        # Its whole text shows the line, with what is secret in it.
        mark = getattr(error, "problem_mark", None)
        said = [getattr(error, "context", None), getattr(error, "problem", None) or "it is no YAML"]
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{': '.join(filter(None, said))}{place}") from None


def _value(settings: Any, name: str) -> Any:
    """A field; Go's JSON does not mind the case of names.

    :raises ValueError: there are no fields
    """
    if settings is None:
        return None
    if not isinstance(settings, Mapping):
        raise ValueError(f"it is {shown_value(settings, 60)} and must have fields")
    return next((value for key, value in settings.items() if str(key).lower() == name.lower()), None)


def _part(settings: Any, name: str) -> Mapping[str, Any] | None:
    value = _value(settings, name)
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{name!r} is {shown_value(value, 60)} and must have fields")
    return value


def _problem_of(settings: Mapping[str, Any] | None, what: str) -> str | None:
    """Why credentials cannot be had from settings."""
    try:
        credentials = _part(settings, "credentials")
        if credentials is None:
            return f"{what} has no credentials"
        if _value(credentials, "fromEnv") is not True and _part(credentials, "secretRef") is None:
            return f"{what} has neither 'fromEnv: true' nor a 'secretRef'"
    except ValueError as error:
        return str(error)
    return None


def _override(overrides: Any, bucket: str, prefix: str) -> Mapping[str, Any] | None:
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    for override in overrides if isinstance(overrides, list) else ():
        if (
            isinstance(override, Mapping)
            and _value(override, "bucketName") == bucket
            and prefix.startswith(str(_value(override, "keyPrefix") or ""))
        ):
            return override
    return None
