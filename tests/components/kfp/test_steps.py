"""What every component does around its library function."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from llmops_components.errors import DataError, SettingError
from llmops_components.kfp._run import as_page, run_step
from llmops_components.passthrough.declared import whole_numbers
from llmops_components.reporting import report_error
from llmops_components.results import StepReport, digest_of
from llmops_components.state_files import write_json


def artifact(path):
    return SimpleNamespace(path=str(path), uri=f"s3://bucket/{path.name}", metadata={})


def test_result_describes_outputs_and_copies_the_report(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1234")
    model, absent, result = (artifact(tmp_path / name) for name in ("model", "absent", "result"))
    report = StepReport(metrics={"loss": 0.5}, details={"n": 1}, passed=False, findings=["line 1"])
    run_step("toy", lambda: report, outputs={"model": model, "absent": absent}, result=result)
    written = json.loads((tmp_path / "result").read_text())
    resources = written.pop("resources")
    digest, size = digest_of(tmp_path / "model")
    assert written == {
        "schema_version": 1,
        "component": "toy",
        "passed": False,
        "findings": ["line 1"],
        "artifacts": {"model": {"uri": "s3://bucket/model", "digest": digest, "bytes": 4}},
        "metrics": {"loss": 0.5},
        "details": {"n": 1},
    }
    assert size == 4
    assert model.metadata == {"digest": digest, "bytes": 4}
    assert set(resources) == {"seconds", "cpu_seconds", "peak_memory_bytes"}
    assert resources["peak_memory_bytes"] > 1 << 20


def test_metrics_are_shown_in_the_pipelines_ui(tmp_path):
    logged = {}
    metrics = SimpleNamespace(log_metric=logged.__setitem__)
    run_step(
        "toy",
        lambda: StepReport(metrics={"a": 1}),
        outputs={},
        result=artifact(tmp_path / "result"),
        metrics=metrics,
    )
    assert logged == {"a": 1}


def test_more_findings_than_a_result_may_have_are_cut_and_counted(tmp_path):
    findings = [f"line {number}" for number in range(10_002)]
    result = artifact(tmp_path / "result")
    run_step("toy", lambda: StepReport(passed=False, findings=findings), outputs={}, result=result)
    written = json.loads((tmp_path / "result").read_text())["findings"]
    assert written == [*findings[:9_999], "and 3 more"]


def test_details_that_nobody_could_read_are_a_reported_error(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMOPS_ERROR_FILE", str(tmp_path / "error.json"))
    report = StepReport(details={"loss": float("nan")})
    with pytest.raises(SystemExit, match=r"details\.loss is nan, which is no finite number"):
        run_step("toy", lambda: report, outputs={}, result=artifact(tmp_path / "result"))
    assert json.loads((tmp_path / "error.json").read_text())["type"] == "StateFileError"


def test_error_on_purpose_ends_the_process_with_its_message_and_leaves_no_result(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMOPS_ERROR_FILE", str(tmp_path / "error.json"))

    def refuse():
        raise DataError("row 3: completion is empty")

    with pytest.raises(SystemExit, match="DataError: row 3: completion is empty"):
        run_step("toy", refuse, outputs={}, result=artifact(tmp_path / "result"))
    assert not (tmp_path / "result").exists()
    assert json.loads((tmp_path / "error.json").read_text()) == {
        "type": "DataError",
        "message": "row 3: completion is empty",
        "retryable": False,
        "traceback": None,
    }


def test_reason_comes_before_the_places_that_it_is_about(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMOPS_ERROR_FILE", str(tmp_path / "error.json"))
    dataset = "/srv/llmops/runs/6b1f4a0e-6d57-4a3e-9a2e-0d6c2f1f7c55/artifacts/validated"

    def refuse():
        raise DataError(f"Dataset {dataset} has no rows.. Check the step that writes it.")

    with pytest.raises(SystemExit):
        run_step("toy", refuse, outputs={}, result=artifact(tmp_path / "result"))
    assert json.loads((tmp_path / "error.json").read_text())["message"].split("\n") == [
        "Dataset .../validated has no rows. Check the step that writes it.",
        f".../validated: {dataset}",
    ]


def test_error_on_purpose_is_a_marked_line_of_the_output_where_no_file_is_asked_for(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("LLMOPS_ERROR_FILE", raising=False)
    monkeypatch.setenv("HF_TOKEN", "a-secret-of-mine")

    def refuse():
        raise DataError("row 3: zeile\u2028zwei\nhttps://me:a-password@example.com refused a-secret-of-mine")

    with pytest.raises(SystemExit, match=r"DataError: row 3: .*\n.*//\*\*\*@example.com refused \*\*\*$"):
        run_step("toy", refuse, outputs={}, result=artifact(tmp_path / "result"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("LLMOPS_ERROR: ")
    assert json.loads(line.removeprefix("LLMOPS_ERROR: ")) == {
        "type": "DataError",
        "message": "row 3: zeile\u2028zwei\nhttps://***@example.com refused ***",
        "retryable": False,
    }


def test_unexpected_error_has_its_traceback_in_the_output_and_no_marked_line(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("LLMOPS_ERROR_FILE", raising=False)

    def crash():
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_step("toy", crash, outputs={}, result=artifact(tmp_path / "result"))
    assert capsys.readouterr().err == ""


def test_page_gets_the_suffix_that_a_browser_knows_it_by(tmp_path):
    from kfp.dsl import HTML

    page = HTML(uri=str(tmp_path / "report"))
    for _ in range(2):
        as_page(page)
        assert (page.uri, page.path) == (str(tmp_path / "report.html"), str(tmp_path / "report.html"))


def test_numbers_that_protobuf_made_doubles_are_integers_again():
    assert whole_numbers(
        {"a": 40.0, "b": [1.0, 1.5], "c": {"d": -2.0}, "e": "1.0", "f": True, "g": None}
    ) == {
        "a": 40,
        "b": [1, 1.5],
        "c": {"d": -2},
        "e": "1.0",
        "f": True,
        "g": None,
    }


def test_digest_of_a_directory_follows_names_and_contents_only(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text("x")
    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "two")
    (tmp_path / "two" / "sub" / "file").rename(tmp_path / "two" / "file")
    assert digest_of(tmp_path / "one")[0] != digest_of(tmp_path / "two")[0]
    (tmp_path / "one" / "sub" / "file").write_text("y")
    assert digest_of(tmp_path / "one") == (digest_of(tmp_path / "one")[0], 1)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "deep" / "file.json", {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "deep" / "file.json", {"a": float("nan")})
    assert json.loads((tmp_path / "deep" / "file.json").read_text()) == {"a": 1}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.json"]


@pytest.mark.parametrize("letter", ["x", "\u00e9"])
def test_an_error_in_a_termination_log_is_whole_json_of_what_is_read_of_it(letter, tmp_path, monkeypatch):
    def mounted(*_):
        raise OSError(errno.EBUSY, "Device or resource busy")

    log = tmp_path / "termination-log"
    monkeypatch.setattr(Path, "replace", mounted)
    monkeypatch.setenv("LLMOPS_ERROR_FILE", str(log))
    try:
        raise SettingError(f"The setting is wrong. {letter * 5000}")
    except SettingError as error:
        report_error(error)
    said = log.read_bytes()
    assert len(said) <= 4096
    described = json.loads(said)
    assert described["message"].startswith("The setting is wrong.")
    assert (described["type"], described["retryable"]) == ("SettingError", False)
