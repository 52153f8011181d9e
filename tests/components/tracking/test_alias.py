"""Which version an alias ends at, with a real MLflow server, in whatever order registrations come and overlap."""

from __future__ import annotations

import itertools

import pytest
from llmops_components.tracking.alias import AS_OF_TAG, move_alias, note_date

_numbers = itertools.count()


@pytest.fixture
def client(mlflow_port):
    import mlflow

    address = f"http://127.0.0.1:{mlflow_port}"
    return mlflow.MlflowClient(address, address)


@pytest.fixture
def model(client, request):
    """A registered model of the test's own; makes versions of a date."""
    name = f"{request.node.originalname}-{next(_numbers)}"
    client.create_registered_model(name)

    def version(as_of: str | None = None):
        made = client.create_model_version(name, source="s3://models/nowhere")
        if as_of is not None:
            note_date(client, made, as_of)
        return client.get_model_version(name, made.version)

    return version


def holder(client, version, alias="candidate"):
    number = client.get_registered_model(version.name).aliases.get(alias)
    return None if number is None else str(number)


DATES = ["2026-11-22", "2026-11-23", "2026-11-24", "2026-11-25"]


def test_newest_date_has_the_alias_in_whatever_order_its_runs_finish(client, model):
    for number, order in enumerate(itertools.islice(itertools.permutations(DATES), 0, 24, 11)):
        alias = f"order-{number}"
        versions = {date: model(date) for date in order}
        moves = [move_alias(client, versions[date], alias, date) for date in order]
        newest = str(versions["2026-11-25"].version)
        assert holder(client, versions["2026-11-25"], alias) == newest
        newest_so_far = [date == max(order[: position + 1]) for position, date in enumerate(order)]
        assert [move.moved for move in moves] == newest_so_far


def test_older_run_says_what_it_left_and_why(client, model):
    newer, older = model("2026-11-25"), model("2026-11-24")
    move_alias(client, newer, "candidate", "2026-11-25")
    left = move_alias(client, older, "candidate", "2026-11-24")
    assert (left.moved, left.version) == (False, "1")
    assert left.note == (
        "Alias 'candidate' stays at version 1, which is newer: of 2026-11-25; this one is of 2026-11-24."
    )
    tags = client.get_model_version(older.name, "2").tags
    assert tags == {AS_OF_TAG: "2026-11-24", "llmops.alias.candidate": "left 2026-11-24"}


def test_same_date_again_takes_the_alias(client, model):
    first, again = model("2026-11-25"), model("2026-11-25")
    assert move_alias(client, first, "candidate", "2026-11-25").moved
    assert move_alias(client, again, "candidate", "2026-11-25").moved
    assert move_alias(client, again, "candidate", "2026-11-25").note == (
        "Alias 'candidate' is at version 2 already."
    )


def test_content_registered_again_for_a_newer_date_counts_as_newer(client, model):
    same, other = model("2026-11-22"), model("2026-11-24")
    move_alias(client, other, "candidate", "2026-11-24")
    note_date(client, same, "2026-11-25")
    assert move_alias(client, same, "candidate", "2026-11-25").moved
    older = model("2026-11-24")
    assert not move_alias(client, older, "candidate", "2026-11-24").moved


def test_version_without_a_date_counts_from_when_it_was_made(client, model):
    by_hand = model()
    client.set_registered_model_alias(by_hand.name, "candidate", by_hand.version)
    assert not move_alias(client, model("2020-01-01"), "candidate", "2020-01-01").moved
    assert move_alias(client, model("2999-01-01"), "candidate", "2999-01-01").moved


def test_alias_that_a_person_has_moved_back_goes_to_the_next_newer_run_only(client, model):
    first, bad = model("2026-11-23"), model("2026-11-24")
    for version, date in ((first, "2026-11-23"), (bad, "2026-11-24")):
        move_alias(client, version, "candidate", date)
    client.set_registered_model_alias(first.name, "candidate", first.version)
    assert not move_alias(client, model("2026-11-22"), "candidate", "2026-11-22").moved
    assert holder(client, first) == "1"
    assert move_alias(client, model("2026-11-25"), "candidate", "2026-11-25").version == "4"


class Interleaved:
    """A client that lets another registration go first, just before its nth call of a method."""

    def __init__(self, client, method: str, other, nth: int = 1) -> None:
        self._client, self._method, self._other, self._nth = client, method, other, nth

    def __getattr__(self, name):
        call = getattr(self._client, name)

        def called(*args, **kwargs):
            if name == self._method:
                self._nth -= 1
                if self._nth == 0:
                    self._other()
            return call(*args, **kwargs)

        return called


@pytest.mark.parametrize("mine, theirs", [("2026-11-24", "2026-11-25"), ("2026-11-25", "2026-11-24")])
@pytest.mark.parametrize(
    "method, nth",
    [
        ("set_model_version_tag", 1),
        ("search_model_versions", 1),
        ("get_registered_model", 1),
        ("set_registered_model_alias", 1),
        ("search_model_versions", 2),
        ("set_model_version_tag", 2),
    ],
)
def test_newer_of_two_overlapping_registrations_wins_wherever_the_other_comes_in(
    client, model, request, method, nth, mine, theirs
):
    version, other = model(mine), model(theirs)
    alias = f"{method}-{nth}-{mine}"
    move_alias(
        Interleaved(client, method, lambda: move_alias(client, other, alias, theirs), nth),
        version,
        alias,
        mine,
    )
    newest = version if mine > theirs else other
    assert holder(client, version, alias) == str(newest.version)


def test_registration_that_died_before_it_had_the_alias_does_not_keep_it(client, model):
    dead, alive = model("2026-11-24"), model("2026-11-25")
    client.set_model_version_tag(dead.name, dead.version, "llmops.alias.candidate", "asked 2026-11-24")
    assert move_alias(client, alive, "candidate", "2026-11-25").moved
    assert holder(client, alive) == "2"


def test_without_a_date_the_alias_moves_because_it_was_asked_to(client, model):
    newer, undated = model("2026-11-25"), model()
    move_alias(client, newer, "candidate", "2026-11-25")
    assert move_alias(client, undated, "candidate", None).moved
    assert AS_OF_TAG not in client.get_model_version(undated.name, undated.version).tags
