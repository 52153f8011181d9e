"""What chooses code is allowed by whoever runs Airflow, and by nobody else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.specs.passing_on import checked

SHAPES = json.loads((Path(__file__).parents[2] / "shapes/code.json").read_text("utf-8"))


@pytest.mark.parametrize(("given", "name"), SHAPES["refused"], ids=str)
def test_argument_that_chooses_code_is_refused_and_named(given, name, monkeypatch):
    with pytest.raises(ConfigurationError, match=r"^model_args: \w+ \w+ .*not allowed here") as refused:
        checked("train_sft", {"model_args": given}, same_release=False)
    assert f"let whoever runs Airflow add {name!r} to 'allowed_code'" in str(refused.value)
    monkeypatch.setenv("AIRFLOW__LLMOPS__ALLOWED_CODE", f"other, {name}")
    checked("train_sft", {"model_args": given}, same_release=False)


@pytest.mark.parametrize("given", SHAPES["kept"], ids=str)
def test_other_arguments_need_no_leave(given):
    assert (
        checked("train_sft", {"model_args": given}, same_release=False)["model_args"].keys() == given.keys()
    )


def test_object_that_a_template_made_text_is_looked_into():
    with pytest.raises(ConfigurationError, match=r"^training_args: trust_remote_code runs code"):
        checked("train_sft", {"training_args": '{"trust_remote_code": true}'})
