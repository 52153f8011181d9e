"""What a revision of a local service has been: something to go back to, or not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from llmops_components.serving.local.controller import LocalServing
from llmops_components.serving.local.home import (
    FINISHED_REVISIONS_KEPT,
    GOOD_REVISIONS_KEPT,
    ServiceHome,
    ServiceNotFoundError,
)
from llmops_components.serving.local.revisions import Revision
from llmops_components.serving.local.traffic import note_former, note_served
from llmops_components.state_files import write_json


@pytest.fixture
def home(tmp_path: Path) -> ServiceHome:
    return ServiceHome(tmp_path / "root/services/default/helper")


def made(home: ServiceHome) -> Revision:
    """A revision that has ended."""
    revision = home.new_revision()
    facts = {"digest": revision.name, "url": "http://127.0.0.1:1", "model_name": "helper"}
    write_json(revision.directory / "facts.json", facts)
    write_json(revision.directory / "state.json", {"state": "STOPPED"})
    return revision


def route(revision: Revision, weight: int) -> dict:
    return {"revision": revision.name, "url": "http://127.0.0.1:1", "weight": weight}


def test_revision_is_good_once_it_has_had_all_of_the_requests_and_until_it_is_given_up(
    home: ServiceHome,
) -> None:
    stable, canary = made(home), made(home)
    note_served(home, [route(stable, 100)], {}, "2026-01")
    note_served(home, [route(stable, 95), route(canary, 5)], {stable.name: 100}, None)
    assert (stable.is_good, canary.is_good, stable.history()["as_of"]) == (True, False, "2026-01")
    home.write_service({**home.readable_service(), "stable": stable.name})
    note_served(home, [route(stable, 95), route(canary, 5)], {stable.name: 100}, "2026-03")
    assert (canary.history(), stable.history()["as_of"]) == ({"as_of": "2026-03"}, "2026-01")
    since = stable.history()["served_at"]
    note_served(home, [route(stable, 100)], {stable.name: 100}, "2026-02")
    assert stable.history() == {"served_at": since, "as_of": "2026-02"}
    stable.note(given_up_at="9999")
    assert (stable.is_good, stable.is_given_up) == (False, True)
    stable.note(given_up_at="2000")  # it was given the requests again since
    assert stable.is_good


def test_what_an_earlier_release_gave_the_requests_to_is_noted_when_it_loses_them(home: ServiceHome) -> None:
    revision = made(home)
    home.write_routes([route(revision, 100)])
    home.write_service({**home.readable_service(), "as_of": "2026-01"})
    os.utime(home.path / "routes.json", (0, 0))
    note_former(home, {revision.name: 100})
    assert revision.history() == {"served_at": "1970-01-01T00:00:00+00:00", "as_of": "2026-01"}


def test_good_revisions_outlive_however_many_have_failed_since(home: ServiceHome) -> None:
    good = [made(home) for _ in range(GOOD_REVISIONS_KEPT + 1)]
    for number, revision in enumerate(good):
        revision.note(served_at=f"2026-01-0{number + 1}")
    failed = [made(home) for _ in range(FINISHED_REVISIONS_KEPT)]
    home.remove_old_revisions()
    assert [each.name for each in home.revisions()] == [each.name for each in (*good[1:], *failed)]


def test_what_an_interrupted_deletion_has_left_is_removed(home: ServiceHome, tmp_path: Path) -> None:
    made(home)
    (home.path / "service.json").unlink()
    serving = LocalServing(tmp_path / "root")
    (home.path / "revisions").rename(home.path / "gateway")  # what is a service no more
    with pytest.raises(ServiceNotFoundError):
        serving.delete("helper")
    assert not home.path.exists()
