"""What events of assets say of drift, and which asset gets one."""

from __future__ import annotations

import pytest
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.operators.versions import MonitorDataOperator

PLAIN, DRIFT = Asset("monitored"), Asset("drifted")


def monitor(**arguments):
    return MonitorDataOperator(
        task_id="monitor", dataset="/new", reference="/old", outlets=[PLAIN], **arguments
    )


@pytest.mark.parametrize(
    ("outcome", "checks", "drifted"),
    [
        ("fail", {"length_text": "fail", "vocabulary": "pass", "classifier": "warn"}, ["length_text", "classifier"]),
        ("undecided", {"length_text": "undecided"}, []),
        ("pass", {"length_text": "pass"}, []),
    ],
)  # fmt: skip
def test_asset_of_drift_gets_an_event_where_there_is_drift_alone(
    context, monkeypatch, outcome, checks, drifted
):
    value = {"details": {"outcome": outcome, "checks": checks}}
    monkeypatch.setattr(ComponentOperator, "outcome", lambda self, context, run: value)
    operator = monitor(drift_asset=DRIFT, on_drift="report")
    assert operator.outlets == [PLAIN, AssetAlias("drift:drifted")]
    events = OutletEventAccessors()
    assert operator.outcome({**context, "outlet_events": events}, None) is value
    extra = {"outcome": outcome, "drifted": drifted}
    assert events[PLAIN].extra == extra
    added = events[operator.outlets[1]].asset_alias_events
    assert [(each.dest_asset_key.name, each.extra) for each in added] == (
        [("drifted", extra)] if drifted else []
    )


def test_asset_that_would_never_get_an_event_is_refused(connections):
    with pytest.raises(ConfigurationError, match=r'^drift_asset takes on_drift="report"'):
        monitor(drift_asset=DRIFT).bind()
    assert monitor().bind().parameters["on_drift"] == "fail"
