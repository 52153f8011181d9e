"""Looks that are shared with others delay the end of a wait, and never decide it."""

from __future__ import annotations

import time

from airflow_provider_llmops.remote.watch import SharedWatch


class Slow(SharedWatch):
    """Its shared look is behind, and takes until the deadline has passed."""

    lags = True

    def __init__(self) -> None:
        super().__init__("revision 1", time.time() + 0.05)
        self.looks: list[bool] = []

    def look_at(self, *, may_lag: bool) -> bool:
        self.looks.append(may_lag)
        if may_lag:
            time.sleep(0.1)
        return not may_lag

    def event(self, **_):
        raise AssertionError("nobody asks")


def test_look_during_which_the_deadline_passes_is_not_the_last_one():
    watch = Slow()
    assert watch.look()
    assert watch.looks == [True, False]
