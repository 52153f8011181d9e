"""The manifest of a data set as the provider reads it: the same record as the components write."""

from __future__ import annotations

import copy

import pytest
from manifests import BAD, GOOD
from test_twins import OURS, THEIRS, definitions

from airflow_provider_llmops.dataset_manifest import read_manifest
from airflow_provider_llmops.exceptions import ConfigurationError


def test_both_planes_declare_the_same():
    ours, theirs = (definitions(plane / "dataset_manifest.py") for plane in (OURS, THEIRS))
    assert ours.pop("read_manifest") != theirs.pop("read_manifest")  # each has its own kind of error
    assert ours == theirs


@pytest.mark.parametrize("value", GOOD)
def test_manifest_is_read_as_it_was_written(value):
    assert read_manifest(copy.deepcopy(value)).model_dump() == value


@pytest.mark.parametrize("why", BAD)
def test_what_is_no_manifest_is_refused_with_the_field(why):
    with pytest.raises(ConfigurationError, match=r"^That is no manifest of a data set \(") as raised:
        read_manifest(BAD[why])
    assert why in str(raised.value)
