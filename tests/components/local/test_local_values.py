"""Values between steps: types, text, conditions."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp.local.placeholder_utils import replace_placeholders
from llmops_components.errors import InputError, SettingError
from llmops_components.local.conditions import is_true
from llmops_components.local.values import as_text, constant, fill, refuse_placeholders, select, typed


def of(name):
    return f"inputs.parameter_values['{name}']"


VALUES = {"word": "heads", "n": 6000.0, "m": 3, "flag": True, "nothing": None, "odd": "it's || (x"}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (f"{of('word')} == 'heads'", True),
        (f"!({of('word')} == 'heads') && {of('word')} == 'tails'", False),
        (f"!(int({of('n')}) < 5000) && int({of('n')}) > 5000", True),
        (f"int({of('n')}) >= int({of('m')})", True),
        (f"double({of('m')}) < 3.5", True),
        (f"{of('flag')} == true", True),
        (f"!({of('flag')} == true)", False),
        (f"{of('nothing')} == 'x'", False),
        (f"{of('nothing')} != 'x'", True),
        (f"{of('odd')} == 'it\\'s || (x'", True),
        (f"{of('word')} == 'a' || {of('word')} == 'heads' && {of('m')} == 3", True),
    ],
)
def test_conditions_as_the_compiler_writes_them(condition, expected):
    assert is_true(condition, VALUES) is expected


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        (f"{of('unknown')} == 1", "there is no value for 'unknown'"),
        (f"{of('word')} < 1", "not supported between instances of 'str' and 'int'"),
        (f"({of('m')} == 3", "a bracket is not closed"),
        (f"{of('word')}", "it is no comparison"),
        ("size(x) == 1", "'size' is unknown"),
        (f"{of('word')} =~ 'h'", "is unknown"),
        (f"{of('word')} == '\\x'", "truncated"),
    ],
)
def test_condition_that_cannot_be_evaluated_is_an_error_and_not_false(condition, reason):
    with pytest.raises(SettingError, match="cannot be evaluated: ") as caught:
        is_true(condition, VALUES)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (7.0, "NUMBER_INTEGER", 7),
        (7, "NUMBER_DOUBLE", 7.0),
        ("7", "NUMBER_INTEGER", 7),
        (7.0, "STRING", "7"),
        (0.5, "STRING", "0.5"),
        ({"a": 1}, "STRING", '{"a": 1}'),
        ("true", "BOOLEAN", True),
        ("True", "BOOLEAN", True),
        ("[1, 2]", "LIST", [1, 2]),
        ({"a": 1}, "STRUCT", {"a": 1}),
        (None, "NUMBER_INTEGER", None),
    ],
)
def test_values_take_their_declared_type(value, kind, expected):
    assert json.dumps(typed(value, {"parameterType": kind}, "x")) == json.dumps(expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (7.5, "NUMBER_INTEGER"),
        (True, "NUMBER_INTEGER"),
        ("many", "NUMBER_DOUBLE"),
        ([1], "STRUCT"),
        (float("inf"), "NUMBER_INTEGER"),
    ],
)
def test_value_of_another_type_is_refused_by_name(value, kind):
    with pytest.raises(InputError, match=f"Step a: input 'x' is declared as {kind} and got"):
        typed(value, {"parameterType": kind}, "Step a: input 'x'")


def test_numbers_in_text_read_as_on_a_cluster():
    values = {"n": 7.0, "rate": 0.25, "flag": True, "items": [1, {"a": "b"}], "none": None}
    text = "{{$.inputs.parameters['n']}} {{$.inputs.parameters['rate']}} {{$.inputs.parameters['flag']}} " + (
        "{{$.inputs.parameters['items']}} <{{$.inputs.parameters['none']}}>"
    )
    filled = fill({"t": [text]}, lambda path, keys: values[keys[0]])
    assert filled == {"t": ['7 0.25 true [1, {"a": "b"}] <>']}
    assert [as_text(value) for value in (1e21, -3.0, "7.0")] == ["1e+21", "-3", "7.0"]


def test_whole_numbers_of_constants_are_integers():
    assert json.dumps(constant({"a": [1.0, 2.5, True, "3.0"]})) == '{"a": [1, 2.5, true, "3.0"]}'


def test_part_of_a_loops_item():
    assert select({"a": {"b": 1}}, 'parseJson(string_value)["a"]["b"]') == 1
    assert select('{"a": 2}', 'parseJson(string_value)["a"]') == 2
    with pytest.raises(InputError, match="has no 'c'"):
        select({"a": 1}, 'parseJson(string_value)["c"]')


SHAPES = json.loads((Path(__file__).parents[2] / "shapes/placeholders.json").read_text("utf-8"))


@pytest.mark.parametrize("text", SHAPES["replaced"])
def test_text_that_a_cluster_would_replace_is_refused_by_name(text):
    for value in (text, {"a": [text]}, {text: 1}):
        with pytest.raises(InputError, match=r"^Input 'x' has .*in a file, as an artifact"):
            refuse_placeholders(value, "Input 'x'")


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_placeholder_that_a_loop_would_decode_is_refused(depth):
    text = r'["{{\u0024.inputs.parameters[0]}}"]'
    for _ in range(depth - 1):
        text = json.dumps([text])
    for escaped in (text, text.replace("u0024", "u005cu0024")):
        with pytest.raises(InputError, match=r"^Input 'x' has .*in a file, as an artifact"):
            refuse_placeholders({"a": [escaped]}, "Input 'x'")


@pytest.mark.parametrize(
    "text", [r"\{\{workflow.name}}", r"C:\new\{{name}}", r"\u00e4 {{ name }}\n", "\\" * 50_000]
)
def test_text_with_escapes_that_hide_nothing_is_taken(text):
    refuse_placeholders([text], "Input 'x'")


@pytest.mark.parametrize("text", SHAPES["kept"] + SHAPES["of_argo"])
def test_text_that_nobody_replaces_is_taken(text):
    refuse_placeholders({"a": [text]}, "Input 'x'")


@given(
    st.recursive(
        st.booleans()
        | st.integers(0, 9)
        | st.text(alphabet="{}$.[]'ab", max_size=12)
        | st.sampled_from(SHAPES["kept"]),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("{}$a", max_size=6), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
def test_kfp_hands_values_that_are_taken_on_unchanged(value):
    try:
        refuse_placeholders(value, "Input 'x'")
    except InputError:
        return
    executor_input = {
        "inputs": {"parameterValues": {"x": value, "other": "as it was"}},
        "outputs": {"outputFile": "/o"},
    }
    (text,) = replace_placeholders(["{{$}}"], json.loads(json.dumps(executor_input)), "p", "t", "/r", "1")
    assert json.loads(text) == executor_input
