"""Why a step failed, from what it printed."""

from __future__ import annotations

import json
import re

import pytest
from planes import DATA_PYTHON

from airflow_provider_llmops.backends.last_words import ERROR_MARK, LastWords, clean, read_last_words
from airflow_provider_llmops.backends.pipelines.kubeflow.answers import ServerError
from airflow_provider_llmops.exceptions import reason_first

CHATTER = """\
[KFP Executor 2026-11-26 14:40:12,001 INFO]: Looking for component `fail` in --component_module_path
[KFP Executor 2026-11-26 14:40:12,002 INFO]: Got executor_input:
{
    "inputs": {
        "parameterValues": {"error": "ValueError: of the input"}
    }
}
"""
TRACEBACK = """\
Traceback (most recent call last):
  File "/usr/lib/python3.11/runpy.py", line 198, in _run_module_as_main
    return _run_code(code, main_globals, None,
  File "/tmp/step.py", line 3, in fail
    raise ValueError("Fail")
ValueError: Fail
"""
# torch 2.9, two processes that fail, and what torchrun says below them.
RANKS = "".join(
    f"[rank{rank}]: {line}\n"
    for rank in (1, 0)
    for line in (
        "Traceback (most recent call last):",
        '  File "/tmp/train.py", line 3, in <module>',
        '    raise ValueError("loss is nan")',
        "ValueError: loss is nan",
    )
)
FAILED_LINE = (
    "E1126 23:27:55.287000 24520 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1) "
    "local_rank: 0 (pid: 24837) of binary: /usr/bin/python3"
)
TORCHRUN = f"""\
{FAILED_LINE}
Traceback (most recent call last):
  File "/usr/bin/torchrun", line 8, in <module>
    sys.exit(main())
             ^^^^^^
  File "/usr/lib/torch/distributed/launcher/api.py", line 383, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:{" "}
============================================================
train.py FAILED
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 24837)
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================
"""


def mark(**error) -> str:
    return f"{ERROR_MARK}{json.dumps({'type': 'DataError', 'message': 'm', 'retryable': False, **error})}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CHATTER + "working\n" + TRACEBACK, "ValueError: Fail"),
        (TRACEBACK + "\nDuring handling of the above exception, another exception occurred:\n\n" + TRACEBACK.replace(
            "ValueError: Fail", "tenacity.RetryGivenUp: after 3 attempts"), "tenacity.RetryGivenUp: after 3 attempts"),
        (TRACEBACK + "sys:1: ResourceWarning: unclosed file\nCleaning up\n", "ValueError: Fail"),
        ("Traceback (most recent call last):\n  File \"x\", line 1, in <module>\n    assert rows, counts\n"
         "           ^^^^\nAssertionError\n", "AssertionError: assert rows, counts"),
        (TRACEBACK + TRACEBACK.replace("ValueError: Fail", "subprocess.CalledProcessError: Command 'train' returned 1"),
         "ValueError: Fail"),
        ("  + Exception Group Traceback (most recent call last):\n  |   File \"x\", line 1, in f\n  |     g()\n"
         "  | ExceptionGroup: two things (2 sub-exceptions)\n", "ExceptionGroup: two things (2 sub-exceptions)"),
        ("  File \"x.py\", line 1\n    def f(:\n          ^\nSyntaxError: invalid syntax\n", "SyntaxError: invalid syntax"),
        ("SettingError: lr is unknown\nbye\n", "SettingError: lr is unknown"),
        ("panic: runtime error: index out of range\n\ngoroutine 1 [running]:\nmain.main()\n",
         "panic: runtime error: index out of range"),
        ("Exception in thread main java.lang.IllegalStateException: no session\n\tat Main.main(Main.java:3)\n",
         "Exception in thread main java.lang.IllegalStateException: no session"),
        (RANKS + TORCHRUN, "ValueError: loss is nan"),
        ("terminate called after throwing an instance of 'c10::DistBackendError'\n  what():  [Rank 0] NCCL error\n" + TORCHRUN,
         "what():  [Rank 0] NCCL error"),
        ("/usr/bin/python3: No module named llmops_components\n" + TORCHRUN,
         "/usr/bin/python3: No module named llmops_components"),
        ("started\n" + TORCHRUN, None),
        ("epoch 1\nbash: line 3: trian: command not found\n", None),
        ("10%\r50%\r\x1b[31mError: disk is full\x1b[0m\r\n", "Error: disk is full"),
        ("\n  \n", None),
        ("", None),
    ],
)  # fmt: skip
def test_reason_is_the_exception_or_what_reads_like_an_error(text, reason):
    assert read_last_words(text).reason == reason
    assert not read_last_words(text).is_final


def test_last_lines_leave_out_what_kfp_prints_around_a_step():
    words = read_last_words(
        CHATTER + "\n".join(f"line {n}" for n in range(30)) + f"\n{mark()}\nDataError: m\n"
    )
    lines = (*(f"line {n}" for n in range(11, 30)), "DataError: m")
    assert words == LastWords("m", True, lines, on_purpose=True)


def test_last_lines_are_those_before_torchruns_report_of_which_process_failed():
    lines = read_last_words(f"step 7\n{RANKS}{TORCHRUN}").lines
    assert (lines[0], lines[-2:]) == ("step 7", ("ValueError: loss is nan", FAILED_LINE))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (mark(message="row 3 is empty"), ("row 3 is empty", True)),
        (mark(message="the hub is down", retryable=True), ("the hub is down", False)),
        (mark(message="a\nb\x1b[2Jc\u202ed"), ("a\nbcd", True)),
        (mark(message="https://me:pw@example.com, hf_abcdefghijklmnopqrst"), ("https://***@example.com, ***", True)),
        (mark(message="x" * 5000), ("x" * 4000, True)),
        (mark(retryable="no"), None),
        (mark(retryable=0), None),
        (mark(message=["m"]), None),
        (mark(message=" "), None),
        (ERROR_MARK + "{", None),
        (ERROR_MARK + "[" * 100_000, None),
        (ERROR_MARK + "null", None),
        ("said: " + mark(), None),
    ],
)  # fmt: skip
def test_error_on_purpose_is_read_from_its_marked_line_and_a_broken_one_is_none(line, words):
    found = read_last_words(f"{line}\nat the end\n")
    assert (found.reason, found.is_final) == (words or (None, False))
    assert found.last == "at the end"


def test_last_marked_line_counts():
    assert (
        read_last_words(f"{mark(message='first')}\n{mark(message='second', retryable=True)}\n").reason
        == "second"
    )


POD_LOG = """\
I1126 14:40:11.123456       1 launcher_v2.go:131] launcher info:
{said}
I1126 14:40:13.123456       1 launcher_v2.go:700] Executing uploadOutputArtifacts attempt: 1
E1126 14:40:13.123456       1 launcher_v2.go:900] {failed}
I1126 14:40:13.223456       1 launcher_v2.go:230] publish success.
F1126 14:40:13.323456       1 main.go:61] {ended}
"""


def test_log_of_a_pod_is_searched_for_the_steps_words_and_then_for_the_launchers():
    status = "failed to execute component: exit status 1"
    words = read_last_words(
        POD_LOG.format(said=TRACEBACK, failed="Component failed: exit status 1", ended=status)
    )
    assert (words.reason, words.lines[-1]) == ("ValueError: Fail", "ValueError: Fail")
    upload = (
        'failed to upload output artifact "result" to remote storage URI "s3://b/k": NoCredentialProviders'
    )
    words = read_last_words(
        POD_LOG.format(
            said="done", failed="All attempts failed", ended=f"failed to execute component: {upload}"
        )
    )
    assert (words.reason, words.lines) == (upload, ("done",))
    words = read_last_words(
        POD_LOG.format(said="giving up", failed="Component failed: exit status 3", ended=status)
    )
    assert (words.reason, words.last) == (None, "giving up")


def test_driver_that_fails_says_why_before_which_it_was():
    said = (
        'F1126 14:40:13.323456       1 main.go:127] KFP driver: driver.Container(pipelineName=p, runID=r, taskName="train", '
        'component="comp-train", dagExecutionID=3, componentSpec) failed: failed to resolve inputs: no artifact "model"'
    )
    assert read_last_words(said).reason == 'failed to resolve inputs: no artifact "model"'


def test_long_line_is_cut_where_it_is_shown():
    assert read_last_words("y" * 10_000).lines == (f"{'y' * 499}…",)


@pytest.mark.parametrize(
    "text",
    ["a" * 60_000, "a." * 30_000, "a://" * 15_000, "\x1b[" + "0" * 60_000, " " * 60_000, "x.y/" + "." * 60_000 + " z", "E" * 60_000,
     "Error" * 12_000, "hf-" * 20_000, "-" * 60_000, "Bearer " * 8_000, "driver.a(" * 6_000, "<title>" * 8_000],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_no_line_of_64_kb_takes_long(text):
    """Hundreds of seconds, with a pattern that tries again from each character."""
    clean(text)
    read_last_words(text)
    ServerError.read(500, text.encode())
    reason_first(text)


def test_password_is_hidden_whatever_stands_before_its_address():
    assert clean("x" * 50 + "postgresql+psycopg2://me:pw@db/x and http://example.com/@a") == (
        "x" * 50 + "postgresql+psycopg2://***@db/x and http://example.com/@a"
    )


def test_what_a_step_logs_through_the_root_logger_is_its_own():
    """KFP's executor puts its format there."""
    stamp = "[KFP Executor 2026-11-26 14:40:13,001 {}]: {}\n".format
    said = CHATTER + stamp("INFO", "reading") + stamp("ERROR", "Cannot reach db1: refused") + "bye\n"
    written = stamp("INFO", "Wrote executor output file to /tmp/x.json.") + stamp(
        "INFO", "Did not write output file."
    )
    words = read_last_words(said + written)
    assert words == LastWords(
        "Cannot reach db1: refused", lines=("reading", "Cannot reach db1: refused", "bye")
    )
    assert read_last_words(said + stamp("CRITICAL", "Giving up")).reason == "Giving up"
    assert read_last_words(said + TRACEBACK).reason == "ValueError: Fail"
    assert read_last_words(CHATTER + stamp("WARNING", "slow")).reason is None


def test_what_kfps_executor_says_itself_is_known():
    """Read off the installed one, whose messages may change."""
    (executor,) = DATA_PYTHON.parents[1].glob("lib/python3*/site-packages/kfp/dsl/executor_main.py")
    source = executor.read_text(encoding="utf-8")
    messages = re.findall(r"logging\.info\(\s*f?'([^'{]*)", source)
    assert len(messages) == 6
    lines = "".join(
        f"[KFP Executor 2026-11-26 14:40:13,001 INFO]: {text.removesuffix(chr(92) + 'n')}\n"
        for text in messages
    )
    assert read_last_words(lines.replace("input:\n", "input:\n{\n}\n")).lines == ()
