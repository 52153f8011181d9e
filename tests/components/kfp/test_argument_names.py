"""A component, its KFP definition and the library function behind it call an argument by one name."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path

import pytest
from llmops_components.evaluation.evaluate import evaluate_model
from llmops_components.kfp import COMPONENTS
from llmops_components.passthrough.training import TrainingOptions
from llmops_components.tracking.register import register_model

FURTHER = {*(f"further_scores_{number}" for number in (1, 2, 3, 4)), "further_names"}
PACKAGE = Path(inspect.getfile(TrainingOptions)).parents[1]
# Arguments of a step that are not the function's: of a training, how many processes call it.
OF_THE_STEP = (
    {name: {"processes", "preset"} for name in COMPONENTS if name.startswith("train_")}
    # The function takes the scores of further models by name.
    | dict.fromkeys(("evaluate_model", "evaluate_service", "run_benchmarks"), FURTHER)
    | {
        "distill": {"processes", "preset"},
        "check_model": {"model_name", "model_version", "tracking_uri"},  # where it is noted what was checked
        "register_model": {"dataset", "report"},  # one of the function's datasets, one of its artifacts
        "prepare_dataset": {
            "dataset",
            "dataset_2",
            "dataset_3",
            "dataset_4",
            "names",
            "sources",
            "base_model",
        },  # the function takes them as one, what is told of them as its origins, and what loads the model's tokenizer
        "monitor_data": {"embedding_model"},  # the function takes what embeds
        "profile_dataset": {"base_model"},  # the function takes what loads its tokenizer
        "validate_dataset": {
            "base_model",
            "evaluation_dataset",
        },  # the function takes what loads its tokenizer, and the file of the rows
    }
)


@cache
def library_functions() -> dict[str, ast.FunctionDef]:
    files = [file for file in PACKAGE.rglob("*.py") if file.parent.name not in ("kfp", "local")]
    nodes = [node for file in files for node in ast.parse(file.read_text()).body]
    return {
        node.name: node for node in nodes if isinstance(node, ast.FunctionDef) and node.name in COMPONENTS
    }


@pytest.mark.parametrize("name", COMPONENTS)
def test_inputs_of_a_component_are_arguments_of_its_function(name):
    of_function = library_functions()[name].args
    arguments = {each.arg for each in (*of_function.args, *of_function.kwonlyargs)}
    if of_function.kwarg:
        arguments |= set(TrainingOptions.__annotations__)
    inputs = set(COMPONENTS[name].component_spec.inputs)
    assert inputs - OF_THE_STEP.get(name, set()) - arguments == set()


def test_old_names_of_arguments_work_for_one_release_with_a_warning(tmp_path):
    with (
        pytest.warns(FutureWarning, match=r"^register_model\(name=\.\.\.\) is model_name=\.\.\. now"),
        pytest.raises(Exception, match="model_name is 'a/b'"),
    ):
        register_model(tmp_path, name="a/b")
    with pytest.raises(TypeError, match=r"got 'metric_names' twice: 'metrics' is its old name"):
        evaluate_model(tmp_path, tmp_path, tmp_path, tmp_path, metrics=["bleu"], metric_names=["bleu"])
