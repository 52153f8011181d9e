"""The operator that publishes versions of data sets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.assets import dataset_asset
from airflow_provider_llmops.openlineage.components import ComponentFacts
from airflow_provider_llmops.openlineage.lineage import Touched
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.backends.pipelines.base import Run
    from airflow_provider_llmops.openlineage.lineage import TaskLineage

__all__ = ["PublishDatasetOperator"]


class PublishDatasetOperator(ComponentOperator):
    """Keep a version of a data set in a catalog, once it is known to be what its manifest says.

    A version is known by a digest of its manifest: the same rows, made in the same way of the same sources, are the same version. Publishing it again
    changes nothing, and one that is there is never changed; a partition that had another version gets the new one. Where the manifest's policy does
    not let it be used, nothing is published, and the task fails.

    The events of the assets in ``outlets`` say ``dataset``, ``version``, ``partition``, ``digest``, ``rows`` and ``files``, and have the partition's
    key. Artifact: ``publication`` (JSON with the same). ``return_value["details"]`` holds them, too, with ``directory``, ``is_new`` and ``before``,
    the version that the partition had until now.

    :param prepared: URI of the rows
    :param manifest: URI of their manifest, as :class:`PrepareDatasetOperator` writes it
    :param catalog: directory that outlives the run, on a cluster below a mounted volume
    :param held_out: URI of the rows that were held out
    :param name: name of the data set; that of the manifest when left out
    :param partition: key of the partition, such as ``2026-11-25``; that of the manifest when left out
    :param policy: URI of a policy as YAML or JSON, which the manifest has to pass; when left out, the verdict that the manifest has, if it has one
    """

    component = "publish_dataset"
    lineage_facts = ComponentFacts(columns=("prepared",))
    addresses = {
        "prepared": Address(kind="file"),
        "manifest": Address(kind="file"),
        "held_out": Address(kind="file"),
        "policy": Address(kind="file"),
        "catalog": Address(kind="directory", exists=False),
    }

    def __init__(
        self,
        *,
        prepared: str,
        manifest: str,
        catalog: str,
        held_out: str | None = None,
        name: str | None = None,
        partition: str | None = None,
        policy: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prepared = prepared
        self.manifest = manifest
        self.catalog = catalog
        self.held_out = held_out
        self.name = name
        self.partition = partition
        self.policy = policy

    def lineage(self) -> TaskLineage:
        """With the data set in its catalog, whose name stays while its versions change, and with the files of this version."""
        found, result = super().lineage(), self._ended_with
        if result is None or result.details.get("version") is None:
            return found
        details, metrics = result.details, result.metrics
        version = Touched(
            f"{self.catalog.rstrip('/')}/{details['name']}",
            digest=details["digest"],
            bytes=int(metrics["bytes"]),
            rows=int(metrics["rows"]),
            columns=details.get("columns") or {},
            known_as={name: details[name] for name in ("name", "version", "partition")},
        )
        files = (Touched(address, kind="FILE") for address in details["files"].values())
        return replace(found, outputs=(*found.outputs, version, *files))

    def outcome(self, context: Context, run: Run) -> dict[str, Any]:
        """The result, which the events of assets say, too."""
        value = super().outcome(context, run)
        details = value["details"]
        published = {
            "dataset": details["name"],
            "rows": value["metrics"]["rows"],
            **{name: details[name] for name in ("version", "partition", "digest", "files")},
        }
        for event in self.tell_assets(context, published, of=dataset_asset(details["name"])):
            if details["partition"] is not None:
                event.add_partitions(details["partition"])
        return value
