"""Publish a version of a data set: check that it is what its manifest says, and keep it where others find it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from llmops_components.data.partitions import check_partition
from llmops_components.data.versions.catalog import Catalog, file_name
from llmops_components.data.versions.manifest import load_manifest
from llmops_components.data.versions.policy import check_policy, load_policy, with_verdict
from llmops_components.dataset_manifest import Manifest, PolicyVerdict, read_manifest
from llmops_components.errors import DataError
from llmops_components.results import StepReport, digest_of
from llmops_components.state_files import write_json

_MAX_COLUMNS_TOLD = 40
_SHOWN_CHARACTERS = 60
PREPARED, HELD_OUT = "prepared", "held_out"  # as prepare_dataset calls them


def publish_dataset(
    prepared: str | os.PathLike[str],
    manifest: str | os.PathLike[str],
    publication: str | os.PathLike[str],
    *,
    catalog: str | os.PathLike[str],
    held_out: str | os.PathLike[str] | None = None,
    name: str | None = None,
    partition: str | None = None,
    policy: str | os.PathLike[str] | None = None,
) -> StepReport:
    """Keep a version of a data set in a catalog, once it is known to be what its manifest says.

    The same version again changes nothing. A partition that had another version gets this one; the former is kept.

    Args:
        prepared: Rows, the file ``prepared`` of the manifest or its only one.
        manifest: The manifest.
        publication: Output, JSON with what is in ``details``.
        catalog: Directory that outlives the step, see :mod:`~llmops_components.data.versions.catalog`.
        held_out: Rows that were held out, the file ``held_out`` of the manifest; an empty one is none.
        name: Name of the data set; that of the manifest when left out.
        partition: Key of the partition that the version is of; that of the manifest when left out.
        policy: File of a policy that the manifest has to pass today, see :mod:`~llmops_components.data.versions.policy`; when left out, the
            verdict that the manifest has, if it has one.

    Returns:
        Rows and bytes as metrics. Details are ``name``, ``version``, ``partition``, ``digest``, ``directory``, ``files``, ``is_new``,
        ``columns`` with their types, the first 40, and ``before``, the version that the partition had until now. ``passed`` is False, and nothing is published, where a policy does not let it.

    Raises:
        DataError: A file is not the one of the manifest, or a published version was changed.
        SettingError: A setting has a wrong value.
    """
    told = load_manifest(manifest)
    kept = Catalog(catalog, told.name if name is None else name)
    told = _named(told, name, partition)
    if told.partition is not None:
        check_partition(told.partition)
    if policy is not None:
        told = with_verdict(told, check_policy(told, load_policy(policy), datetime.now(UTC)))
    files = _files(told, prepared, held_out)
    if told.policy and told.policy.outcome != "pass":
        return _refused(told, told.policy)
    published = kept.publish(told, files)
    details = {
        "name": told.name,
        "version": published.version,
        "partition": told.partition,
        "digest": told.digest,
        "directory": str(published.directory),
        "files": {each: str(published.directory / file_name(each)) for each in files},
        "is_new": published.is_new,
        "before": published.before,
        "columns": _columns(told),
    }
    write_json(publication, details)
    what = f"{told.name} version {published.version}" + (
        f", partition {told.partition}" if told.partition else ""
    )
    print(f"Published {what}." if published.is_new else f"There already: {what}.")
    return StepReport(metrics={"rows": told.rows, "bytes": told.bytes}, details=details)


def _named(manifest: Manifest, name: str | None, partition: str | None) -> Manifest:
    """A manifest with the name and partition under which it is published."""
    if partition is not None and manifest.partition not in (None, partition):
        raise DataError(
            f"The manifest is of partition {manifest.partition!r:.60} and not of {partition!r:.60}. Give the one that was made for it."
        )
    if partition is not None:
        check_partition(partition)
    given = {"name": name, "partition": partition}
    return read_manifest(
        manifest.model_dump() | {key: value for key, value in given.items() if value is not None}
    )


def _files(
    manifest: Manifest, prepared: str | os.PathLike[str], held_out: str | os.PathLike[str] | None
) -> dict[str, Path]:
    names = {each.name for each in manifest.files}
    given = {(PREPARED if PREPARED in names or len(names) > 1 else next(iter(names))): Path(prepared)}
    if held_out is not None and (HELD_OUT in names or Path(held_out).stat().st_size):
        given[HELD_OUT] = Path(held_out)
    if given.keys() != names:
        raise DataError(
            f"The manifest is of the files {', '.join(sorted(names))}, and given are {', '.join(sorted(given))}. Give those that the step wrote "
            "beside the manifest."
        )
    for file in manifest.files:
        found = digest_of(given[file.name])[0]
        if found != file.file_digest:
            raise DataError(
                f"The file {file.name} is not that of the manifest: it has the digest {found}, and there {file.file_digest} stands. Give those that "
                f"the step wrote beside the manifest. File: {given[file.name]}."
            )
    return given


def _columns(manifest: Manifest) -> dict[str, str]:
    """The first columns of the rows that are used, each with the types of its values."""
    main = next((each for each in manifest.files if each.name == PREPARED), manifest.files[0])
    return {
        each.name[:_SHOWN_CHARACTERS]: "|".join(sorted(each.types))
        for each in main.columns[:_MAX_COLUMNS_TOLD]
    }


def _refused(manifest: Manifest, policy: PolicyVerdict) -> StepReport:
    findings = [f"{each.field}: {each.reason}" for each in policy.checks if each.outcome != "pass"]
    print(f"Not published: the policy {policy.policy} says {policy.outcome}.")
    return StepReport(
        metrics={"rows": manifest.rows, "bytes": manifest.bytes},
        details={
            "name": manifest.name,
            "partition": manifest.partition,
            "digest": manifest.digest,
            "version": None,
        },
        passed=False,
        findings=findings,
    )
