"""The pieces that a joined pipeline is made of, each alone."""

from __future__ import annotations

from airflow_provider_llmops.specs.joining.groups import NO_GATES, Groups
from airflow_provider_llmops.specs.joining.steps import JoinedStep, OutputOf, check_order
from airflow_provider_llmops.specs.joining.wiring import PipelineInputs, Wiring
from airflow_provider_llmops.specs.pipeline import PipelineSpec

GATE = PipelineSpec.packaged("validate_dataset")
TRAINING = PipelineSpec.packaged("train_sft")
DATA = {"dataset": "/data/rows"}


def steps_of(*steps: JoinedStep) -> tuple[dict[str, JoinedStep], list[str]]:
    by_name = {step.name: step for step in steps}
    return by_name, check_order({name: step.needs for name, step in by_name.items()})


def test_step_is_behind_every_gate_that_it_needs_itself_or_through_others():
    steps, order = steps_of(
        JoinedStep("checked", GATE, DATA),
        JoinedStep("trained", TRAINING, DATA, after=("checked",)),
        JoinedStep("judged", GATE, DATA, after=("trained",)),
        JoinedStep("last", TRAINING, DATA, after=("judged",)),
        JoinedStep("free", TRAINING, DATA),
    )
    groups = Groups(steps, order)
    assert {name: sorted(gates) for name, gates in groups.gates.items()} == {
        "checked": [],
        "free": [],
        "trained": ["checked"],
        "judged": ["checked"],
        "last": ["checked", "judged"],
    }
    assert {name: groups.path(name) for name in order} == {
        "checked": "checked",
        "free": "free",
        "trained": "checked-passed/trained",
        "judged": "checked-passed/judged",
        "last": "checked-judged-passed/last",
    }
    assert next(iter(groups)) == NO_GATES


def test_group_is_called_otherwise_where_a_step_has_its_name():
    steps, order = steps_of(
        JoinedStep("checked", GATE, DATA),
        JoinedStep("checked-passed", TRAINING, DATA),
        JoinedStep("trained", TRAINING, DATA, after=("checked",)),
    )
    assert Groups(steps, order).path("trained") == "checked-passed-2/trained"


def test_address_that_two_steps_take_is_one_input_of_the_pipeline():
    steps, order = steps_of(JoinedStep("one", GATE, DATA), JoinedStep("two", GATE, DATA))
    groups = Groups(steps, order)
    inputs = PipelineInputs([steps[name] for name in order], groups.gates)
    assert inputs.names["one", "dataset"] == inputs.names["two", "dataset"] == "one_dataset"
    assert inputs.arguments == {"one_dataset": "/data/rows"}
    assert list(inputs.definitions["artifacts"]) == ["one_dataset"]


def test_what_is_behind_a_gate_finds_its_input_in_its_group_and_the_group_at_the_step_outside():
    steps, order = steps_of(
        JoinedStep("made", TRAINING, DATA),
        JoinedStep("checked", GATE, DATA),
        JoinedStep("trained", TRAINING, {}, {"dataset": OutputOf("made", "model")}, ("checked",)),
    )
    groups = Groups(steps, order)
    wiring = Wiring(steps, groups, PipelineInputs([steps[name] for name in order], groups.gates))
    compiled = {"componentInputArtifact": "dataset"}
    assert wiring.source(steps["trained"], "artifacts", compiled) == {
        "componentInputArtifact": "pipelinechannel--made-model"
    }
    assert wiring.reference("artifacts", OutputOf("made", "model"), gates=NO_GATES) == {
        "taskOutputArtifact": {"outputArtifactKey": "model", "producerTask": "made"}
    }
    behind = frozenset({"checked"})
    assert [(group, origin) for group, origin, _ in wiring.handed_in(behind)][-1] == (
        "parameters",
        OutputOf("checked", "passed"),
    )
    assert ("artifacts", OutputOf("made", "model")) in [each[:2] for each in wiring.handed_in(behind)]
