"""Specifications on the server: each content is uploaded once, as a version of the pipeline of its name."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow_provider_llmops.backends.pipelines.kubeflow.api import KfpApi, RefusedError
from airflow_provider_llmops.backends.pipelines.kubeflow.filters import filter_of, predicate
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.specs.documents import read_stored
from airflow_provider_llmops.specs.messages import meaning_of
from airflow_provider_llmops.specs.pipeline import BoundPipeline

TAG_LENGTH = 63
_OF_A_VERSION = (
    "component_digest",
    "dag_id",
    "dag_version",
    "bundle_version",
)  # what of a run's labels concerns it
VERSIONS_COMPARED = 10  # a new content is rare, and each of them may have a megabyte
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class PipelineVersions:
    """Finds or makes the version of a specification.

    :param api: the server
    """

    def __init__(self, api: KfpApi) -> None:
        self._api = api

    def reference(self, pipeline: BoundPipeline, labels: Mapping[str, str]) -> dict[str, str]:
        """Ids of the pipeline and the version that hold a specification.

        :param pipeline: what is to run
        :param labels: where the run comes from; what of it concerns the version is noted there
        """
        name = pipeline.name
        meaning = meaning_of(pipeline.spec, pipeline.platform)
        digest = hashlib.sha256(meaning).hexdigest()
        version_name = f"sha256-{digest[:24]}"
        known = self._pipeline(name)
        pipeline_id = known or self._create(name)
        version = self._version(pipeline_id, version_name)
        if version is None and known:
            version = self._with_meaning(pipeline_id, meaning)
        if version is None:
            origin = {key: labels[key] for key in _OF_A_VERSION if labels.get(key)}
            version = self._upload(pipeline, pipeline_id, version_name, digest, origin)
        return {"pipeline_id": pipeline_id, "pipeline_version_id": version["pipeline_version_id"]}

    def by_name(self, pipeline: str, version: str | None) -> dict[str, str]:
        """Ids of a pipeline that is on the server, and of one of its versions.

        :param pipeline: name of the pipeline
        :param version: name of the version; the newest when ``None``
        :raises RefusedError: there is no such pipeline or version
        """
        pipeline_id = self._pipeline(pipeline)
        if pipeline_id is None:
            raise RefusedError(
                f"There is no pipeline {pipeline!r} on {self._where()}. Upload it, or pass the compiled file instead.",
                status=404,
            )
        found = self._version(pipeline_id, version)
        if found is None:
            lacks = (
                f"{version!r}. It has: {', '.join(self._names(pipeline_id)) or 'none'}"
                if version
                else "at all"
            )
            raise RefusedError(
                f"Pipeline {pipeline!r} on {self._where()} has no version {lacks}.", status=404
            )
        return {"pipeline_id": pipeline_id, "pipeline_version_id": found["pipeline_version_id"]}

    def spec(self, reference: Mapping[str, str]) -> dict[str, Any]:
        """The specification that a version holds: the pipeline's, or both documents.

        :param reference: ids as :meth:`by_name` returns them
        """
        answer = self._api.call(
            self._api.pipelines.pipeline_service_get_pipeline_version,
            reference["pipeline_id"],
            reference["pipeline_version_id"],
        )
        spec: dict[str, Any] = answer["pipeline_spec"]
        return spec

    def _pipeline(self, name: str) -> str | None:
        namespace = self._api.settings.namespace
        get = self._api.pipelines.pipeline_service_get_pipeline_by_name
        try:
            answer = self._api.call(get, name, **self._api.scope)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise
        if (theirs := answer.get("namespace")) and theirs != namespace:
            # Asked without a namespace, a multi-user server takes the first of that name in any.
            raise ConfigurationError(
                f"Pipeline {name!r} belongs to namespace {theirs!r}, not to the connection's. The server is multi-user: set 'namespace' "
                f"of connection {self._api.settings.conn_id!r} to your profile's."
                if namespace is None
                else f"Pipeline {name!r} belongs to namespace {theirs!r}, not to {namespace!r} of connection "
                f"{self._api.settings.conn_id!r}."
            )
        if answer.get("name", name) != name:
            raise ConfigurationError(
                f"Pipeline {name!r} cannot be told from {answer['name']!r}, which {self._where()} has already: its database "
                "compares names without case and accents. Give one of them another name."
            )
        return str(answer["pipeline_id"])

    def _create(self, name: str) -> str:
        made_by = "Made by airflow-provider-llmops"
        body = {"name": name, "display_name": name, "description": made_by, **self._api.scope}
        try:
            answer = self._api.call(self._api.pipelines.pipeline_service_create_pipeline, body)
        except RefusedError:
            found = self._pipeline(name)  # another task, or an earlier attempt whose answer was lost, made it
            if found is None:
                raise
            return found
        return str(answer["pipeline_id"])

    def _version(self, pipeline_id: str, name: str | None) -> dict[str, Any] | None:
        """The version of that name, or the newest."""
        query: dict[str, Any] = {"page_size": 1, "sort_by": "created_at desc"}
        if name is not None:
            query["filter"] = filter_of(predicate("name", "EQUALS", string_value=name))
        answer = self._api.call(
            self._api.pipelines.pipeline_service_list_pipeline_versions, pipeline_id, **query
        )
        found: list[dict[str, Any]] = answer.get("pipeline_versions") or []
        # By name there is one at most, since the server compares without case; here every character counts.
        return next((version for version in found if name in (None, version.get("name"))), None)

    def _with_meaning(self, pipeline_id: str, meaning: bytes) -> dict[str, Any] | None:
        """The newest version that says the same, whoever uploaded it.

        By meaning: the server leaves empty maps out and writes some characters anew, so that texts differ.
        """
        for version in self._newest(pipeline_id):
            stored = version.get("pipeline_spec")
            with suppress(ConfigurationError):  # an Argo workflow, or of a newer KFP
                if stored and meaning_of(*read_stored(stored, "a version")) == meaning:
                    return version
        return None

    def _names(self, pipeline_id: str) -> list[str]:
        return [str(version.get("name")) for version in self._newest(pipeline_id)]

    def _newest(self, pipeline_id: str) -> list[dict[str, Any]]:
        answer = self._api.call(
            self._api.pipelines.pipeline_service_list_pipeline_versions,
            pipeline_id,
            page_size=VERSIONS_COMPARED,
            sort_by="created_at desc",
        )
        return answer.get("pipeline_versions") or []

    def _upload(
        self, pipeline: BoundPipeline, pipeline_id: str, name: str, digest: str, origin: Mapping[str, str]
    ) -> dict[str, Any]:
        package = _package(pipeline)
        try:
            answer: dict[str, Any] = self._api.call(
                self._api.uploads.upload_pipeline_version,
                str(package),
                name=name,
                pipelineid=pipeline_id,
                description="\n".join(
                    f"{key}: {value}" for key, value in {"digest": f"sha256:{digest}", **origin}.items()
                ),
                # For searching; a value may have 63 characters. Servers that know no tags leave them out.
                tags=json.dumps({"digest": digest[:TAG_LENGTH]}),
            )
        except RefusedError:
            found = self._version(pipeline_id, name)  # made meanwhile, as above
            if found is None:
                raise
            return found
        finally:
            package.unlink()
        return answer

    def _where(self) -> str:
        namespace = self._api.settings.namespace
        return self._api.settings.endpoint + (f" in namespace {namespace}" if namespace else "")


def _package(pipeline: BoundPipeline) -> Path:
    """A file as the API takes it: YAML documents, the first the pipeline, the second its platform."""
    documents = [pipeline.spec, *([pipeline.platform] if pipeline.platform else [])]
    with tempfile.NamedTemporaryFile(
        "w", suffix=".yaml", prefix="pipeline-", delete=False, encoding="utf-8"
    ) as file:
        file.write("\n---\n".join(map(as_yaml, documents)))
    return Path(file.name)


def as_yaml(document: dict[str, Any]) -> str:
    """The document as JSON that a YAML reader reads alike.

    JSON writes what lies beyond 16 bits as a pair of surrogates, which YAML refuses; so text stays as it is, but for what YAML takes
    for the end of a line or does not allow.
    """
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(document, ensure_ascii=False))
