"""Small pipelines as the KFP compiler writes them, for tests without the compiler."""

from __future__ import annotations

import copy
from typing import Any


def container(image: str = "python:3.11") -> dict[str, Any]:
    """An executor that runs a container."""
    return {"container": {"args": ["{{$}}"], "command": ["echo"], "image": image}}


def task(component: str, **inputs: dict[str, Any]) -> dict[str, Any]:
    """A task of a component; inputs by group."""
    return {
        "cachingOptions": {"enableCache": True},
        "componentRef": {"name": component},
        "inputs": inputs,
        "taskInfo": {"name": component},
    }


_TWO_STEPS: dict[str, Any] = {
    "components": {
        "comp-report": {
            "executorLabel": "exec-report",
            "inputDefinitions": {"parameters": {"text": {"parameterType": "STRING"}}},
        },
        "comp-train": {
            "executorLabel": "exec-train",
            "inputDefinitions": {"parameters": {"steps": {"parameterType": "NUMBER_INTEGER"}}},
            "outputDefinitions": {"parameters": {"out": {"parameterType": "STRING"}}},
        },
    },
    "deploymentSpec": {"executors": {"exec-report": container(), "exec-train": container()}},
    "pipelineInfo": {"name": "two-steps"},
    "root": {
        "dag": {
            "tasks": {
                "report": {
                    **task(
                        "comp-report",
                        parameters={
                            "text": {
                                "taskOutputParameter": {"outputParameterKey": "out", "producerTask": "train"}
                            }
                        },
                    ),
                    "dependentTasks": ["train"],
                },
                "train": task("comp-train", parameters={"steps": {"componentInputParameter": "steps"}}),
            }
        },
        "inputDefinitions": {
            "parameters": {
                "steps": {"defaultValue": 3.0, "isOptional": True, "parameterType": "NUMBER_INTEGER"}
            }
        },
    },
    "schemaVersion": "2.1.0",
    "sdkVersion": "kfp-2.17.0",
}


def two_steps() -> dict[str, Any]:
    """A pipeline of ``train`` and then ``report``."""
    return copy.deepcopy(_TWO_STEPS)


def nested() -> dict[str, Any]:
    """A pipeline that has the other one, ``two_steps``, twice (``first``, ``second``), and a ``train`` of its own."""
    ir = two_steps()
    inner = ir["root"]
    steps = {"parameters": {"steps": {"runtimeValue": {"constant": 2.0}}}}
    ir["components"]["comp-two-steps"] = inner
    ir["root"] = {
        "dag": {
            "tasks": {
                name: task(component, **copy.deepcopy(steps))
                for name, component in (
                    ("first", "comp-two-steps"),
                    ("second", "comp-two-steps"),
                    ("train", "comp-train"),
                )
            }
        }
    }
    ir["pipelineInfo"]["name"] = "outer"
    return ir
