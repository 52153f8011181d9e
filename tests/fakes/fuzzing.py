"""How the fuzz tests run: those that Hypothesis makes the inputs of.

A usual run tries the same inputs each time, so that it tells about the change at hand and never about luck. ``dev/test --fuzz`` tries
many more, others each time. What it finds is kept: Hypothesis prints the ``@example(...)`` that goes on top of the test.
"""

import os

from hypothesis import HealthCheck, settings

INPUTS = 300  # of each test, in a usual run: all of them together take about a minute
TIMES_VARIABLE = "LLMOPS_FUZZ_TIMES"  # set by dev/test --fuzz


def load_profile() -> None:
    """Have Hypothesis run as often, and as much at random, as this run of the tests asks for."""
    settings.register_profile(
        "llmops",
        max_examples=INPUTS * _times(),
        derandomize=not os.environ.get(TIMES_VARIABLE),
        deadline=None,  # the machine has other things to do, too
        suppress_health_check=[HealthCheck.too_slow],
        print_blob=True,
    )
    settings.load_profile("llmops")


def inputs(number: int) -> settings:
    """Decorator for a test that should try more inputs than others, or fewer because each takes long.

    :param number: inputs of a usual run; ``dev/test --fuzz 20`` tries 20 times as many
    """
    return settings(max_examples=number * _times())


def _times() -> int:
    return int(os.environ.get(TIMES_VARIABLE) or 1)
