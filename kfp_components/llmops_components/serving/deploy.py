"""Carry out the manifest of a service, for pipelines without Airflow: apply it, and wait until what it describes serves.

A revision that is ready gets the requests, as KServe does it on a cluster; on this machine that is said to the controller.
Whoever wants more than that (a question first, no older model in place of a newer one) deploys with the provider's operator,
whose ``delivery`` decides it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Literal

from llmops_components.errors import ComponentError, SettingError, UnavailableError
from llmops_components.results import StepReport
from llmops_components.serving.access.settings import VLLM_KEY_VARIABLE
from llmops_components.serving.detached import processes
from llmops_components.serving.http.asking import is_open_to_all
from llmops_components.serving.local.controller import LocalServing
from llmops_components.serving.local.manifest import check_name
from llmops_components.state_files import write_json

DEFAULT_ROOT = "~/.llmops"
_LOCAL_POLL_SECONDS = 0.2
_CLUSTER_POLL_SECONDS = 2
_PROGRESS_SECONDS = 5


def deploy_model(
    service: str | os.PathLike[str],
    *,
    manifest: dict[str, Any],
    root: str | os.PathLike[str] | None = None,
    timeout_seconds: float = 300,
    target: Literal["auto", "local", "kserve"] = "auto",
) -> StepReport:
    """Deploy a service. The revision that served before goes on serving when the new one fails.

    Args:
        service: Output file, JSON: name, revision and addresses.
        manifest: An ``InferenceService`` as a plain dict.
        root: Directory of local services; default ``$LLMOPS_ROOT``, else ``~/.llmops``.
        timeout_seconds: How long the revision may take to become ready.
        target: ``kserve`` applies the manifest to a cluster, ``local`` runs it on this machine, ``auto`` is ``kserve``
            inside Kubernetes and ``local`` elsewhere.
    """
    if target not in ("auto", "local", "kserve"):
        raise SettingError(f"Unknown target {target!r}. Valid ones: auto, local, kserve.")
    if target == "auto":
        target = "kserve" if "KUBERNETES_SERVICE_HOST" in os.environ else "local"
    started = time.monotonic()
    if target == "kserve":
        facts = _deploy_to_cluster(manifest, timeout_seconds)
    else:
        where = root or os.environ.get("LLMOPS_ROOT") or DEFAULT_ROOT
        facts = _deploy_here(LocalServing(where), manifest, timeout_seconds)
    facts |= {"target": target}
    print(f"Service {facts['name']} revision {facts['revision']} serves at {facts['openai_url']}", flush=True)
    write_json(service, facts)
    return StepReport(metrics={"deploy_seconds": round(time.monotonic() - started, 3)}, details=facts)


def _deploy_here(serving: LocalServing, manifest: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
    revision = serving.apply(manifest)
    name, namespace, number = revision["name"], revision["namespace"], revision["revision"]
    print(
        f"Revision {number} of {name} is {revision['state']}, log: {revision['directory']}/log.txt",
        flush=True,
    )
    if revision["ignored"]:
        print(f"Without meaning on one machine, ignored: {', '.join(revision['ignored'])}", flush=True)
    try:
        _wait_ready(serving, revision, timeout_seconds)
        now = serving.traffic(name, {number: 100}, namespace=namespace)
    except ComponentError as error:
        raise _given_up(serving, revision, error) from error
    return {
        "name": name,
        "namespace": namespace,
        "revision": number,
        "url": now["url"],
        "openai_url": now["openai_url"],
        "model_name": revision["model_name"],
        "digest": revision["digest"],
    }


def _wait_ready(serving: LocalServing, revision: dict[str, Any], timeout_seconds: float) -> None:
    started = said = time.monotonic()
    while True:
        status = serving.status(revision["name"], revision["namespace"])
        state = next(item for item in status["revisions"] if item["revision"] == revision["revision"])
        now = time.monotonic()
        if state["state"] == "READY":
            print(f"Ready after {now - started:.1f} s", flush=True)
            return
        if state["state"] != "STARTING":
            raise UnavailableError(
                f"Revision {revision['revision']} is {state['state']}: {state.get('error', '')}"
            )
        if now - started > timeout_seconds:
            tail = processes.log_tail(Path(revision["directory"]))
            raise UnavailableError(
                f"Revision {revision['revision']} was not ready after {timeout_seconds:g} s. The end of its log:\n{tail}"
            )
        if now - said >= _PROGRESS_SECONDS:
            said = now
            print(f"Waiting for revision {revision['revision']}, {now - started:.0f} s", flush=True)
        time.sleep(_LOCAL_POLL_SECONDS)


def _given_up(serving: LocalServing, revision: dict[str, Any], error: ComponentError) -> ComponentError:
    """Stop the revision if it was started here and no requests go to it, and say what serves now."""
    name, namespace, number = revision["name"], revision["namespace"], revision["revision"]
    shares = {
        item["revision"]: item["traffic"]
        for item in serving.status(name, namespace)["revisions"]
        if item["traffic"]
    }
    if revision["created"] and number not in shares:
        serving.stop_revision(name, number, namespace=namespace)
    others = ", ".join(f"{each} ({share}%)" for each, share in shares.items())
    kept = f"still serving: {others}" if others else "nothing else was serving"
    if not revision["created"]:
        kept += f"; revision {number} was started before, and is left as it is"
    return type(error)(f"Deploying {name} failed; {kept}. {error}")


def _deploy_to_cluster(manifest: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
    """Create or patch the object and wait; KServe itself keeps the old revision until the new one is ready."""
    from kserve import KServeClient, V1beta1InferenceService
    from kubernetes.client.rest import ApiException

    metadata = manifest.get("metadata", {})
    name = check_name(metadata.get("name", ""))
    namespace = check_name(metadata.get("namespace", "default"), "namespace")
    service = V1beta1InferenceService(
        api_version=manifest.get("apiVersion"),
        kind=manifest.get("kind"),
        metadata=metadata,
        spec=manifest.get("spec"),
    )
    client = KServeClient()
    try:
        try:
            applied = client.create(service, namespace=namespace)
        except RuntimeError as error:  # the SDK hides the API's error inside
            if getattr(error.__context__, "status", None) != 409:
                raise
            applied = client.patch(name, service, namespace=namespace)
        print(f"InferenceService {namespace}/{name} applied, waiting until it is ready", flush=True)
        client.wait_isvc_ready(
            name,
            namespace=namespace,
            timeout_seconds=timeout_seconds,
            polling_interval=_CLUSTER_POLL_SECONDS,
            expected_generation=applied["metadata"].get("generation"),
        )
        status = client.get(name, namespace=namespace)["status"]
    except (RuntimeError, ApiException) as error:
        code = getattr(error.__context__, "status", None)
        kind = SettingError if code in (400, 403, 422) else UnavailableError
        raise kind(f"Deploying InferenceService {namespace}/{name} failed: {error}") from error
    # The address inside the cluster: the public one may need an ingress that a pipeline step cannot reach.
    url = (status.get("address") or {}).get("url") or status["url"]
    model_name = next(
        (
            item.partition("=")[2]
            for item in manifest["spec"]["predictor"]["model"].get("args", [])
            if item.startswith("--model_name=")
        ),
        name,
    )
    if _names_a_key(manifest) and is_open_to_all(f"{url}/openai/v1"):
        raise SettingError(
            f"InferenceService {namespace}/{name} answers without an API key although its manifest has {VLLM_KEY_VARIABLE}: its "
            "runtime does not look at it, as KServe's huggingfaceserver does not. Use a runtime that does (vLLM's own server, "
            "this project's predictor), or let the cluster's gateway check keys. The service is up: delete it if it must not be."
        )
    predictor = status.get("components", {}).get("predictor", {})
    return {
        "name": name,
        "namespace": namespace,
        "revision": predictor.get("latestReadyRevision") or str(applied["metadata"].get("generation")),
        "url": url,
        "openai_url": f"{url}/openai/v1",
        "model_name": model_name,
    }


def _names_a_key(manifest: dict[str, Any]) -> bool:
    env = manifest["spec"]["predictor"]["model"].get("env", [])
    return any(variable.get("name") == VLLM_KEY_VARIABLE for variable in env)
