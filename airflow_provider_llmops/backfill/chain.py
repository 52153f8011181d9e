"""The DAGs of a backfill, in order, and which of them Airflow starts by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from airflow_provider_llmops.backfill.api import AirflowApi
from airflow_provider_llmops.exceptions import ConfigurationError

MAX_KEY_LENGTH = 250  # Airflow's
_AT_RUNTIME = "PartitionedAtRuntime"
_PLACE = "{partition}"


@dataclass(frozen=True)
class Link:
    """A DAG of the chain.

    :param dag_id: the DAG
    :param is_paused: whether its runs wait
    :param has_times: whether its own timetable says which partitions there are
    :param listens: names and addresses of the assets that it is scheduled on
    :param announces: names and addresses of the assets that its tasks have as outlets
    :param max_active_runs: of the DAG
    :param conf: of the runs that are started
    """

    dag_id: str
    is_paused: bool = False
    has_times: bool = False
    listens: frozenset[str] = frozenset()
    announces: frozenset[str] = frozenset()
    max_active_runs: int | None = None
    conf: Mapping[str, Any] = field(default_factory=dict)

    def follows(self, other: Link) -> bool:
        """Whether Airflow starts it for a partition when another DAG has announced that.

        :param other: which comes before it
        """
        return not self.is_paused and bool(self.listens & other.announces)

    def conf_of(self, key: str) -> Any:
        """The conf of a run, with the key wherever a text has ``{partition}``.

        :param key: of the partition
        """
        return _filled(self.conf, key)


def read_chain(api: AirflowApi, dag_ids: Sequence[str], confs: Mapping[str, Mapping[str, Any]]) -> list[Link]:
    """The DAGs with what Airflow knows of them.

    :param api: Airflow
    :param dag_ids: in order
    :param confs: of their runs
    :raises ConfigurationError: one does not exist or takes no partitions
    """
    if repeated := {each for each in dag_ids if dag_ids.count(each) > 1}:
        raise ConfigurationError(f"--dag names {', '.join(sorted(repeated))} more than once.")
    if unknown := sorted(confs.keys() - set(dag_ids)):
        raise ConfigurationError(
            f"--conf is for {', '.join(unknown)}, which --dag does not name. Give the DAG, or leave its conf out."
        )
    return [_read(api, dag_id, confs.get(dag_id, {})) for dag_id in dag_ids]


def _read(api: AirflowApi, dag_id: str, conf: Mapping[str, Any]) -> Link:
    found = api.details(dag_id)
    if "timetable_partitioned" not in found:
        raise ConfigurationError("This Airflow knows no partitions: it is older than 3.3. Upgrade it.")
    is_partitioned = bool(found["timetable_partitioned"])
    if not is_partitioned and found["timetable_summary"] != _AT_RUNTIME:
        raise ConfigurationError(
            f"The DAG {dag_id!r} takes no partitions: its schedule is {found['timetable_summary'] or 'none'}. Give it "
            "CronPartitionTimetable where it begins the chain, PartitionedAssetTimetable where an asset with partitions starts "
            "it, or PartitionedAtRuntime() where nothing does, or leave it out."
        )
    allowed = found["allowed_run_types"]
    if allowed is not None and "manual" not in allowed:
        raise ConfigurationError(
            f"The DAG {dag_id!r} does not let anybody start it: its allowed_run_types are {', '.join(allowed) or 'none'}. "
            "Allow manual runs, or leave it out."
        )
    has_times = is_partitioned and bool(found["timetable_periodic"])
    return Link(
        dag_id,
        is_paused=found["is_paused"],
        has_times=has_times,
        listens=frozenset(_assets(found["asset_expression"])) if is_partitioned else frozenset(),
        announces=frozenset(api.announced_by(dag_id)),
        max_active_runs=found["max_active_runs"],
        conf=conf,
    )


def _assets(expression: Any) -> Iterator[str]:
    """Names and addresses in the expression that says which assets a DAG is scheduled on."""
    if isinstance(expression, Mapping):
        for name, value in expression.items():
            if name in ("name", "uri") and isinstance(value, str):
                yield value
            else:
                yield from _assets(value)
    elif isinstance(expression, list):
        for each in expression:
            yield from _assets(each)


def _filled(value: Any, key: str) -> Any:
    if isinstance(value, str):
        return value.replace(_PLACE, key)
    if isinstance(value, Mapping):
        return {name: _filled(each, key) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, key) for each in value]
    return value


def keys_between(api: AirflowApi, chain: Sequence[Link], first: date, last: date) -> list[str]:
    """Keys of the partitions of some days, as the first DAG with a timetable of partitions makes them; none of the future.

    :param api: Airflow
    :param chain: the DAGs
    :param first: day
    :param last: day, the whole of it
    :raises ConfigurationError: no DAG says which partitions there are, or there are none
    """
    link = next((each for each in chain if each.has_times), None)
    if link is None:
        raise ConfigurationError(
            "--from and --to need a DAG whose timetable says which partitions there are, a CronPartitionTimetable, and "
            f"{', '.join(each.dag_id for each in chain)} have none. Name the partitions with --partitions."
        )
    if first > last:
        raise ConfigurationError(f"--from ({first}) is after --to ({last}). Exchange them.")
    keys = api.keys_between(link.dag_id, first, last, datetime.now(UTC))
    if not keys:
        raise ConfigurationError(
            f"There are no partitions of {link.dag_id} from {first} to {last} that have begun. Widen --from and --to."
        )
    return keys


def check_keys(keys: Sequence[str]) -> list[str]:
    """Keys that somebody has given, each once.

    :param keys: as they were given
    :raises ConfigurationError: Airflow does not take one
    """
    for key in keys:
        if not key.strip() or len(key) > MAX_KEY_LENGTH:
            raise ConfigurationError(
                f"--partitions has {key[:60]!r}, and a key has from 1 to {MAX_KEY_LENGTH} characters that are not all spaces."
            )
    return list(dict.fromkeys(keys))
