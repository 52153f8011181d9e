"""The order in which prompts get a place when more wait than fit: one prompt of each request after the other."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from llmops_components.serving.predictor.generation import Generation


class WaitingLine:
    """Prompts that wait.

    The second prompt of a request stands in line as if it had come with the next request, the third one as if with the one
    after that, and so on: a request of many prompts does not keep out those that come behind it, nor do they keep it out.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Generation]] = []
        self._requests = 0
        self._entries = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, request: Sequence[Generation]) -> None:
        """Let the prompts of a request stand in line.

        Args:
            request: The prompts.
        """
        for index, row in enumerate(request):
            self._push(self._requests + index, row)
        self._requests += 1

    def add_again(self, row: Generation) -> None:
        """Let a prompt that had a place stand in line behind all requests that are there.

        Args:
            row: The prompt.
        """
        self._push(self._requests, row)

    def first(self) -> Generation | None:
        """The prompt whose turn it is; those whose clients are gone leave the line."""
        while self._heap and self._heap[0][2].cancelled:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def take(self) -> Generation:
        """Take the prompt whose turn it is out of the line."""
        return heapq.heappop(self._heap)[2]

    def _push(self, turn: int, row: Generation) -> None:
        heapq.heappush(self._heap, (turn, self._entries, row))
        self._entries += 1
