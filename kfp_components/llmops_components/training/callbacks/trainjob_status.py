"""Progress for the status of a ``TrainJob``, reported beside the training and not in its way."""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import KubeflowCallback

# Transformers gives a request five seconds. One may be under way when the last one is to be sent.
ANSWER_SECONDS = 4.5
END_SECONDS = 11.0


def report_beside(trainer: Trainer) -> None:
    """Let a thread report where Transformers would: wherever Kubeflow Trainer has named its status server.

    Args:
        trainer: A trainer that was just made.
    """
    if trainer.pop_callback(KubeflowCallback) is not None:
        trainer.add_callback(TrainJobStatusCallback())


class TrainJobStatusCallback(TrainerCallback):
    """Has Transformers' ``KubeflowCallback`` called by a thread.

    That waits five seconds for an answer while the training waits for it, and again at the next step: a status server that
    takes connections and never answers would slow a training to a tenth. Steps that end while a report is under way are
    not reported. The end is, and is waited for, unless there was no answer before.
    """

    def __init__(self) -> None:
        self._reports = KubeflowCallback()
        self._figures: dict[str, Any] = {}
        self._is_unanswered = False
        self._next: queue.Queue[Callable[[], None]] = queue.Queue(maxsize=1)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            threading.Thread(target=self._work, name="trainjob-status", daemon=True).start()
            state = copy.copy(state)
            self._next.put(lambda: self._reports.on_train_begin(args, state, control))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._figures = {**self._figures, **(logs or {})}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and not self._next.full():
            self._next.put(self._report("on_step_end", args, state, control))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        until = time.monotonic() + END_SECONDS
        reported = threading.Event()
        report = self._report("on_train_end", args, state, control)

        def end() -> None:
            if self._is_unanswered:
                reported.set()
            report()
            reported.set()

        with contextlib.suppress(queue.Empty):
            self._next.get_nowait()  # the end says more than a step that was not reported yet
        try:
            self._next.put(end, timeout=END_SECONDS)
        except queue.Full:
            return
        reported.wait(max(0.0, until - time.monotonic()))

    def _report(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl
    ) -> Callable[[], None]:
        """What the thread is to do: state and figures are those of now."""
        then, figures = copy.copy(state), self._figures

        def report() -> None:
            self._reports.on_log(args, then, control, logs=figures)
            getattr(self._reports, event)(args, then, control)

        return report

    def _work(self) -> None:
        while True:
            report = self._next.get()
            began = time.monotonic()
            report()
            self._is_unanswered = time.monotonic() - began >= ANSWER_SECONDS
