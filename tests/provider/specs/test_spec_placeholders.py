"""Values hold nothing that Kubeflow Pipelines, Argo or Kubernetes would replace."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipelines import two_steps

from airflow_provider_llmops.backends.pipelines.base import RunRequest
from airflow_provider_llmops.backends.pipelines.kubeflow.request import check_request
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.settings.kubernetes import StepSettings
from airflow_provider_llmops.specs.pipeline import BoundPipeline, PipelineSpec
from airflow_provider_llmops.specs.placeholders import (
    refuse_expansions,
    refuse_placeholders,
    refuse_variables,
)

SHAPES = json.loads((Path(__file__).parents[2] / "shapes/placeholders.json").read_text("utf-8"))
TRAINING = {"dataset": "/d", "base_model": "/m"}


def nested_in(text: str) -> list[Any]:
    return [{"a": text}, {text: 1}, {"a": [{"b": [1, text]}]}]


@pytest.mark.parametrize("text", SHAPES["replaced"])
def test_text_that_would_be_replaced_is_refused_by_name(text):
    with pytest.raises(
        ConfigurationError, match=r"^Component import_base_model: input 'revision' has "
    ) as refused:
        PipelineSpec.packaged("import_base_model").bind({"source": "/m", "revision": text})
    assert "in a file, as an artifact's address" in str(refused.value)


@pytest.mark.parametrize("text", SHAPES["of_argo"])
def test_variable_of_argo_is_refused_where_argo_carries_out_the_run(text):
    bound = PipelineSpec.packaged("import_base_model").bind({"source": "/m", "revision": text})
    assert bound.parameters == {"source": "/m", "revision": text}
    with pytest.raises(
        ConfigurationError, match=r"^Parameter 'text' has .* in it at inside, which is a variable of Argo"
    ):
        check_request(request(text={"inside": text}), uploads=True)
    with pytest.raises(ConfigurationError, match=r"^env has .* in it at A, which is a variable of Argo"):
        StepSettings.of({"env": {"A": text}})


@pytest.mark.parametrize("text", SHAPES["kept"])
def test_other_braces_are_sent_as_they_are(text):
    check_request(request(text=text), uploads=True)


@pytest.mark.parametrize("text", SHAPES["kept"])
def test_other_braces_and_dollars_are_handed_on_as_they_are(text):
    bound = PipelineSpec.packaged("import_base_model").bind({"source": "/m", "revision": text})
    assert bound.parameters == {"source": "/m", "revision": text}


@pytest.mark.parametrize("value", nested_in("{{$}}"))
def test_placeholder_inside_a_value_is_found_at_every_depth(value):
    with pytest.raises(
        ConfigurationError, match=r"input 'training_args' has '\{\{\$\}\}' in it at "
    ) as refused:
        PipelineSpec.packaged("train_sft").bind({**TRAINING, "training_args": value})
    place = {"a": "at a,", "{{$}}": "at  (a key),"}[next(iter(value))]
    assert place in str(refused.value) or "at a[0].b[1]," in str(refused.value)


def test_address_of_an_artifact_has_no_placeholder():
    with pytest.raises(ConfigurationError, match=r"input .dataset. has .{{\$.inputs.parameters"):
        PipelineSpec.packaged("train_sft").bind(
            {**TRAINING, "dataset": "s3://b/{{$.inputs.parameters['x']}}/d"}
        )


def test_placeholders_that_the_author_of_a_specification_wrote_stay():
    ir = copy.deepcopy(two_steps())
    ir["root"].setdefault("inputDefinitions", {})["parameters"] = {
        "name": {"parameterType": "STRING", "defaultValue": "{{$.pipeline_job_name}}"}
    }
    spec = PipelineSpec(name="mine", ir=ir, digest="sha256:0")
    assert spec.bind({}).spec["root"]["inputDefinitions"] == ir["root"]["inputDefinitions"]
    with pytest.raises(ConfigurationError, match="Pipeline mine: input 'name' has "):
        spec.bind({"name": "{{$.pipeline_job_uuid}}"})


def request(name: str = "run", **parameters: Any) -> RunRequest:
    return RunRequest(name, BoundPipeline(two_steps(), parameters))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$(HF_TOKEN)", "$(HF_TOKEN)"),
        ("a $(KFP_POD_NAME) b", "$(KFP_POD_NAME)"),
        ("$$(X)", "$$"),
        ("$$E = mc^2$$", "$$"),
    ],
)
def test_what_kubernetes_replaces_in_a_command_is_refused_for_a_cluster(text, found):
    with pytest.raises(ConfigurationError) as refused:
        check_request(request(text={"inside": text}), uploads=True)
    assert str(refused.value).startswith(
        f"Parameter 'text' has {found!r} in it at inside, which Kubernetes replaces"
    )


@pytest.mark.parametrize("text", ["$5", "$(", "$()", "$(a b)", "a$", "$HOME", "${HOME}"])
def test_dollars_that_kubernetes_leaves_alone_are_sent(text):
    check_request(request(text=text), uploads=True)


@pytest.mark.parametrize("name", ["a {{$}}", "a {{workflow.name}}", "a $(X)"])
def test_name_of_a_run_holds_no_placeholder(name):
    with pytest.raises(ConfigurationError, match=r"^The run.s name has "):
        check_request(request(name), uploads=True)


@pytest.mark.parametrize("field", ["env", "annotations"])
def test_settings_of_a_step_hold_no_placeholder(field):
    with pytest.raises(ConfigurationError, match=rf"^{field} has .{{{{\$\.inputs.* in it at A, "):
        StepSettings.of({field: {"A": "{{$.inputs.parameters['x']}}"}})


@pytest.mark.parametrize(
    "text",
    [
        r'["{{\u0024.inputs.parameters[0]}}"]',
        r'["\u007b\u007B$.inputs.parameters[0]}}"]',
        r'["{{\u005cu0024.inputs.parameters[0]}}"]',
        r'["[\"{{\\u0024.inputs.parameters[0]}}\"]"]',
    ],
)
def test_placeholder_that_a_loop_would_decode_is_refused(text):
    with pytest.raises(
        ConfigurationError, match=r"^it has .{{.* at a\[0\], which Kubeflow Pipelines replaces"
    ):
        refuse_placeholders("it", {"a": [text]})


@pytest.mark.parametrize("text", [r'["{{\tworkflow.name}}"]', r'{"{{\u0069tem}}": 1}'])
def test_variable_of_argo_that_a_loop_would_decode_is_refused(text):
    with pytest.raises(ConfigurationError, match=r"^it has .{{.* at a\[0\], which is a variable of Argo"):
        refuse_variables("it", {"a": [text]})


def test_variable_that_a_loop_would_decode_is_refused():
    with pytest.raises(
        ConfigurationError, match=r"^it has '\$\(HF_TOKEN\)' in it, which Kubernetes replaces"
    ):
        refuse_expansions("it", r'["\u0024(HF_TOKEN)"]')


@pytest.mark.parametrize(
    "text", [r"\{\{workflow.name}}", r"C:\new\{{name}}", r"\u00e4 {{ name }}\n", "\\" * 50_000]
)
def test_text_with_escapes_that_hide_nothing_is_taken(text):
    refuse_placeholders("it", [text])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet="{}$.[]'=: \naiwm", max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("{}$=a", max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    JSON,
    st.sampled_from(SHAPES["replaced"]),
    st.text('{}$ a"\\', max_size=5),
    st.text('{}$ a"\\', max_size=5),
)
def test_no_placeholder_hides_between_other_text(value, placeholder, before, after):
    with pytest.raises(ConfigurationError):
        refuse_placeholders("it", [value, {"k": before + placeholder + after}])


@given(JSON)
def test_what_is_accepted_has_none_of_its_openings(value):
    try:
        refuse_placeholders("it", value)
    except ConfigurationError:
        return
    text = json.dumps(value)
    assert not any(opening in text for opening in ("{{$", "{{channel:"))
