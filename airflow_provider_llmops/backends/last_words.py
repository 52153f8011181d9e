"""Why a step failed, from what it printed: its own error, or its exception."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from airflow_provider_llmops.exceptions import shortened
from airflow_provider_llmops.redaction import redact

# The provider's components begin the line with it that carries an error raised on purpose: ``llmops_components.reporting``.
ERROR_MARK = "LLMOPS_ERROR: "
SHOWN_LINES = 20
MAX_REASON_CHARACTERS = 4000
MAX_LINE_CHARACTERS = 500
MAX_LINE_READ = 16_384  # of one that is not an error of ours; more than is shown of any
# KFP's executor gives the root logger its format, so that a step's own messages have it as well.
_EXECUTORS_LOG = re.compile(r"\[KFP Executor [\d:,. -]+ (?P<level>[A-Z]+)\]: ")
# What it says itself: kfp/dsl/executor_main.py.
_EXECUTORS_OWN = re.compile(
    r"Looking for component |--component_module_path is not specified\. |Loading KFP component \"|Got executor_input:$|"
    r"Did not write output file\.$|Wrote executor output file "
)
_ERROR_LEVELS = ("ERROR", "CRITICAL")
_TRACEBACK = re.compile(r"^[\s|+-]*(?:Exception Group )?Traceback \(most recent call last\):$")
_EXCEPTION = re.compile(
    r"^\s*(?:Exception in thread \S+ |Caused by: |Uncaught )?"
    r"(?P<name>(?:[A-Za-z_][\w.]*\.)?[A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit|Timeout|Fault))(?:: (?P<message>.*))?$"
)
_OF_ANOTHER_PROCESS = re.compile(r"[\w.]*(?:CalledProcessError|ChildFailedError|ProcessRaisedException)\b")
# The last two: what an exception of C++ says, NCCL's for one, and a Python that has no such module.
_FATAL = re.compile(
    r"^\s*(?:panic|fatal(?: error)?|error|what\(\)|(?:\S*/)?python[\d.]*): .*\S", re.IGNORECASE
)
# How torchrun's report of which process failed begins, below a traceback of its own.
_TORCHRUNS_REPORT = re.compile(r"torch\.distributed\.elastic\.[\w.]*ChildFailedError: ?$")
# Go's glog, which KFP's launcher and drivers write: severity, month and day, time, thread, file and line.
_GLOG = re.compile(
    r"^(?P<severity>[IWEF])\d{4} \d\d:\d\d:\d\d\.\d+\s+\d+ [\w./-]+\.go:\d+\] ?(?P<message>.*)$"
)
# What they put before the reason: which of them it was, with a line of identifiers.
_LAUNCHERS_PREFIX = re.compile(
    r"^(?:KFP driver: |driver\.\w+\([^()]*\) failed: |failed to execute component: )+"
)
# torch.distributed, of the traceback of one of its processes.
_RANK = re.compile(r"^\[rank\d+\]:[ ]?")
_STATUS_ONLY = re.compile(r"exit status \d+$")
_TERMINAL_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class _Line(NamedTuple):
    """A line of a step's own.

    :param text: what it says
    :param is_error: whether it was logged as an error
    """

    text: str
    is_error: bool = False


@dataclass(frozen=True)
class LastWords:
    """What can be told from the end of a step's output.

    :param reason: why it failed: its own error, its exception, or what reads like one; ``None`` if it printed none
    :param is_final: whether the step said that the same input will fail again
    :param lines: its last lines, without what KFP's executor and launcher print around it
    :param on_purpose: whether it is an error that a component of this provider raised on purpose, and so says all
    """

    reason: str | None = None
    is_final: bool = False
    lines: tuple[str, ...] = ()
    on_purpose: bool = False

    @property
    def last(self) -> str | None:
        """Its last line, which is no reason but may be a trace of one."""
        return self.lines[-1].strip() if self.lines else None


def read_last_words(text: str) -> LastWords:
    """Read the end of a step's output.

    Nothing in it is trusted further than to fail the step's own task: whoever forges the line of an error makes that error
    final, and its text is shown.

    :param text: the output, or its end
    """
    own, launchers = _split(redact(text))  # a key in PEM has several lines
    own = own[: _report_start([line.text for line in own])]
    marked = next((error for line in reversed(own) if (error := _marked(line.text))), None)
    shown = [line for line in own if not line.text.startswith(ERROR_MARK) and line.text.strip()]
    lines = tuple(shortened(line.text, MAX_LINE_CHARACTERS) for line in shown[-SHOWN_LINES:])
    if marked:
        return LastWords(*marked, lines, on_purpose=True)
    reason = _exception([line.text for line in own]) or _launchers_error(launchers) or _error_line(shown)
    return LastWords(reason and reason[:MAX_REASON_CHARACTERS], lines=lines)


def clean(text: str) -> str:
    """A text without control characters and secrets."""
    return redact(_CONTROL.sub("", _TERMINAL_CODES.sub("", text)))


def _split(text: str) -> tuple[list[_Line], list[re.Match[str]]]:
    """The step's own lines, and those of KFP's launcher or driver."""
    own: list[_Line] = []
    launchers = []
    for raw, is_error in _without_executor_chatter(text.split("\n")):
        seen = raw.rstrip("\r").rpartition("\r")[2]  # what a progress bar has overwritten is not seen
        line = clean(seen if seen.startswith(ERROR_MARK) else _RANK.sub("", seen[:MAX_LINE_READ]))
        if match := _GLOG.match(line):
            launchers.append(match)
        else:
            own.append(_Line(line.rstrip(), is_error))
    return own, launchers


def _without_executor_chatter(lines: Sequence[str]) -> Iterator[_Line]:
    """Leave out what KFP's executor prints around a step, its whole input as indented JSON above all."""
    in_dump = False
    for line in lines:
        if logged := _EXECUTORS_LOG.match(line):
            said = line[logged.end() :].rstrip()
            is_executors = logged["level"] == "INFO" and _EXECUTORS_OWN.match(said)
            in_dump = is_executors is not None and said.startswith("Got ")
            if not is_executors:
                yield _Line(said, logged["level"] in _ERROR_LEVELS)
        elif in_dump:
            in_dump = line.rstrip() != "}"
        else:
            yield _Line(line)


def _marked(line: str) -> tuple[str, bool] | None:
    if not line.startswith(ERROR_MARK):
        return None
    try:
        said = json.loads(line.removeprefix(ERROR_MARK))
        message, retryable = said["message"], said["retryable"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(message, str) or not message.strip() or not isinstance(retryable, bool):
        return None
    return clean(message)[:MAX_REASON_CHARACTERS], not retryable


def _report_start(lines: Sequence[str]) -> int:
    """Where torchrun's report begins, which says less than what stands before it; the end if there is none."""
    said = next((at for at in range(len(lines) - 1, -1, -1) if _TORCHRUNS_REPORT.match(lines[at])), -1)
    start = next((at for at in range(said, -1, -1) if _TRACEBACK.match(lines[at])), 0)
    return start or len(lines)


def _exception(lines: Sequence[str]) -> str | None:
    """The exception below the last traceback, unless that only says that another process failed."""
    starts = [at for at, line in enumerate(lines) if _TRACEBACK.match(line)]
    found = [text for start in reversed(starts) if (text := _below(lines, start))]
    return next((text for text in found if not _OF_ANOTHER_PROCESS.match(text)), found[0] if found else None)


def _below(lines: Sequence[str], start: int) -> str | None:
    is_of_group = "|" in lines[start] or "+" in lines[start]
    for at in range(start + 1, len(lines)):
        line = lines[at].lstrip().removeprefix("|").removeprefix(" ") if is_of_group else lines[at]
        if line and not line[0].isspace():
            return _with_assertion(line.strip(), lines[:at])
    return None


def _error_line(lines: Sequence[_Line]) -> str | None:
    """The last line that was logged as an error, or reads like one."""
    for at in range(len(lines) - 1, -1, -1):
        text = lines[at].text
        if lines[at].is_error or _EXCEPTION.match(text) or _FATAL.match(text):
            return _with_assertion(text.strip(), [line.text for line in lines[:at]])
    return None


def _with_assertion(line: str, before: Sequence[str]) -> str:
    """``assert x`` says more than the bare ``AssertionError`` below it."""
    match = _EXCEPTION.match(line)
    if match is None or match["message"]:
        return line
    source = next((text.strip() for text in reversed(before) if text.strip(" ^~")), "")
    return f"{line.rstrip(':')}: {source}" if source else line


def _launchers_error(found: Sequence[re.Match[str]]) -> str | None:
    """What KFP's launcher or driver ended with, unless that is only the status of the step."""
    for match in reversed(found):
        if match["severity"] in "EF" and not _STATUS_ONLY.search(match["message"]):
            return _LAUNCHERS_PREFIX.sub("", match["message"]).strip()
    return None
