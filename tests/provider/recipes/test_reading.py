"""Recipes: what is right, and where what is wrong stands."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml
from planes import REPO

from airflow_provider_llmops.cli import main
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.recipes.reading import read_recipe
from airflow_provider_llmops.recipes.recipe import json_schema

HEAD = "name: chat\nbase_model:\n  source: hf://org/base\n"
FILE = REPO / "airflow_provider_llmops" / "recipes" / "recipe.schema.json"
EXAMPLES = sorted((REPO / "dags" / "recipes").glob("*.yaml"))


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        (tmp_path / "chat.yaml").write_text(text)
        return tmp_path / "chat.yaml"

    return write


def test_a_short_recipe_has_the_defaults_of_the_rest(recipe):
    found = read_recipe(recipe(HEAD + "method: {name: dpo, preference_learning_rate: 5e-5}\n"))
    assert (found.name, found.base_model.source) == ("chat", "hf://org/base")
    assert (found.method.name, found.method.preference_learning_rate) == ("dpo", 5e-5)
    assert (found.gate.min_improvement, found.serving.canary.steps) == (0.05, [20, 50])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("gates: {}\n", "chat.yaml:4:1: Unknown setting: 'gates' (did you mean 'gate'?). There are: name, "),
        ("gate:\n  min_scor: 1.0\n", "chat.yaml:5:3: Unknown setting in gate: 'min_scor' (did you mean 'min_score'?)"),
        ("method: {name: sftt}\n", "chat.yaml:4:10: method.name: Input should be 'sft', 'dpo', 'kto' or 'rlhf', got 'sftt'."),
        ("method:\n  max_steps: 0\n", "chat.yaml:5:3: method.max_steps: Input should be greater than or equal to 1, got 0."),
        ("method:\n  max_steps: many\n", "chat.yaml:5:3: method.max_steps: Input should be a valid integer, got 'many'."),
        ("method:\n  max_steps: true\n", "chat.yaml:5:3: method.max_steps: Input should be a valid integer, got True."),
        ("method: sft\n", "chat.yaml:4:1: method: a mapping is expected, with name, max_steps, "),
        ("serving: {canary: {steps: [5, 100]}}\n", "chat.yaml:4:31: serving.canary.steps.1: Input should be less than"),
        ("serving: {canary: {steps: [50, 5]}}\n", "chat.yaml:4:20: serving.canary.steps: They must rise, got [50, 5]."),
        ("data:\n  train: rows.jsonl\n", "chat.yaml:5:3: data.train: String should match pattern"),
        ("data:\n  preference: /rows\n", "chat.yaml:5:3: data.preference: The method sft does not learn from them."),
        ("method:\n  reinforcement: {steps: 3}\n", "chat.yaml:5:3: method.reinforcement: It has no effect with the method sft."),
        ("method:\n  name: dpo\n  learning_rate: 0.1\n", "chat.yaml:6:3: method.learning_rate: It has no effect with the method dpo."),
        ("gate: {champion: v7}\n", "chat.yaml:4:8: gate.champion: MLflow keeps latest, and v with a number, for itself."),
        ("name: other\n", "chat.yaml:4:1: 'name' stands here twice."),
        ("data: &data {}\ngate: *data\n", "chat.yaml:1:1: A recipe has no anchors and aliases"),
        ("data: [\n", "chat.yaml:5:1: It is no YAML: "),
        ("data: !!python/object:os.system {}\n", "chat.yaml:4:7: The type tag:yaml.org,2002:python/object:os.system is none of a recipe."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(recipe, text, fault):
    with pytest.raises(ConfigurationError) as refused:
        read_recipe(recipe(HEAD + text))
    assert str(refused.value).startswith(f"The recipe is not right: {fault}")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "The recipe is not right: chat.yaml:1:1: The file is empty"),
        ("- name\n", "The recipe is not right: chat.yaml:1:1: A recipe is a mapping"),
        ("name: chat\n", "The recipe is not right: chat.yaml:1:1: base_model is missing."),
        ("x" * 70000, "The recipe is not right: chat.yaml:1:1: The file has 70000 bytes; a recipe has 65536 at most."),
        (HEAD + "gate: {min_score: high}\nmethod: {max_steps: 0}\n", "The recipe is not right (2 faults): chat.yaml:4:8: gate."),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_refused(recipe, text, fault):
    with pytest.raises(ConfigurationError) as refused:
        read_recipe(recipe(text))
    assert str(refused.value).startswith(fault)


def test_all_faults_are_told_at_once(recipe):
    with pytest.raises(ConfigurationError) as refused:
        read_recipe(recipe("nam: chat\nbase_model: {sourc: x}\n"))
    lines = str(refused.value).splitlines()
    assert [line.partition(": ")[0] for line in lines[1:4]] == [
        "chat.yaml:1:1",
        "chat.yaml:2:1",
        "chat.yaml:2:14",
    ]


def test_the_published_schema_is_that_of_the_code_and_accepts_the_examples():
    assert json.loads(FILE.read_text()) == json_schema()
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    assert EXAMPLES
    for file in EXAMPLES:
        # YAML 1.2, which editors read, takes 5e-4 for a number, and so do recipes.
        value = yaml.safe_load(file.read_text().replace("5e-4", "0.0005"))
        assert read_recipe(file) and not list(validator.iter_errors(value))
    (fault,) = validator.iter_errors({"name": "chat", "base_model": {"source": "x"}, "gates": {}})
    assert "'gates' was unexpected" in fault.message


def test_the_command_checks_files_and_folders_and_prints_the_schema(recipe, capsys):
    good = recipe(HEAD)
    assert main(["recipe", "check", str(good), str(good.parent)]) == 0
    assert capsys.readouterr().out == f"{good}: chat is right\n" * 2
    (good.parent / "bad.yaml").write_text("name: Chat\nbase_model: {source: x}\n")
    assert main(["recipe", "check", str(good.parent)]) == 1
    answer = capsys.readouterr()
    assert (
        answer.out == f"{good}: chat is right\n" and "bad.yaml:1:1: name: String should match" in answer.err
    )
    (good.parent / "empty").mkdir()
    assert main(["recipe", "check", str(good.parent / "empty"), str(good.parent / "none.yaml")]) == 1
    said = capsys.readouterr().err
    assert (
        said.startswith("There are no recipes (*.yaml, *.yml) in") and "\nThe recipe cannot be read: " in said
    )
    assert main(["recipe", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
