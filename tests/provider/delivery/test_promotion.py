"""Which revision is promoted, decided by what a service has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_provider_llmops.backends.serving.base import Revision, Service
from airflow_provider_llmops.delivery.promotion import Promotion, promotion_in
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.states import ServiceState


def service(stable: str = "a", **shares: int) -> Service:
    revisions = {
        name: Revision(name, ServiceState.READY, traffic=share, digest=f"sha256:{name}")
        for name, share in shares.items()
    }
    return Service("chat", "team", "http://chat", revisions, stable=stable, wanted="b")


def test_canary_is_found_by_its_requests_and_a_chosen_revision_by_its_name():
    beside = service(a=80, b=20, c=0)
    assert promotion_in(beside) == Promotion("b", "a", 20, "sha256:b")
    assert promotion_in(beside, "c") == Promotion("c", "a", 0, "sha256:c")
    assert promotion_in(service("b", a=0, b=100), "b") == Promotion("b", "b", 100, "sha256:b")
    on_its_way = replace(service("b", a=0, b=100), is_settled=False)
    assert promotion_in(on_its_way) == Promotion("b", "b", 100, "sha256:b")


def test_several_canaries_or_none_are_nothing_to_choose_from():
    several = service(a=50, b=25, c=25)
    with pytest.raises(
        ConfigurationError,
        match=r"^Several revisions share the requests with a: b, c\. Service 'chat' has a \(has 50% of the requests\)",
    ):
        promotion_in(several)
    assert promotion_in(several, "c").share == 25
    with pytest.raises(ConfigurationError, match=r"^No canary has any of the requests\. "):
        promotion_in(service(a=100, b=0))


def test_decision_is_read_as_it_was_stored():
    for decided in (Promotion("b", "a", 20, "sha256:b"), Promotion("00002", "00001", 0)):
        assert Promotion.read(str(decided)) == decided
        assert " " not in str(decided)
