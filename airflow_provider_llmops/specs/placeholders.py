"""Text that is replaced on its way to a step, and so has no place in a value.

Kubeflow Pipelines fills placeholders in without escaping: its launcher replaces them in the JSON that holds all of a step's
inputs (``compileCmdAndArgs`` in ``backend/src/v2/component/launcher_v2.go``), so that one value rewrites the others. On a cluster
Argo does the same with its variables in the tasks of a workflow, where the values travel (``util/template``), and Kubernetes
with ``$(NAME)`` in a container's command, of which they are a part. What a specification's author has written is meant, and
stays: constants and defaults. What somebody gives is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, shown_value

_OF_PIPELINES = re.compile(r"\{\{(?:\$|channel:)[^{}]*(?:\}\})?")
# The roots that Argo resolves or refuses (``GlobalVarValidWorkflowVariablePrefix`` in ``workflow/common/common.go``), and what else it
# knows of a task, a loop and a retry. Its variables for metrics, such as {{status}}, reach no values.
_OF_ARGO = re.compile(
    r"\{\{(?:=|\s*(?:(?:inputs|item|lastRetry|outputs|pod|steps|tasks|workflow)\.|(?:item|node\.name|retries)\s*\}\}))[^{}]*(?:\}\})?"
)
_OF_KUBERNETES = re.compile(r"\$\([-._A-Za-z][-._A-Za-z0-9]*\)|\$\$")
# Loops decode text as JSON, and what was escaped in it is a placeholder then, however often it was escaped.
_ESCAPED = re.compile(r"\\(?:\\|u005[cC])*(?:u([0-9a-fA-F]{4})|([fnrt]))?")
_AS_ARTIFACT = (
    "Give text that must have it, such as a prompt or a template, in a file, as an artifact's address"
)


def refuse_placeholders(what: str, value: Any) -> None:
    """Refuse a value in which Kubeflow Pipelines would replace something, on every backend: a component is the same on all.

    :param what: what it is, for messages: ``Component train_sft: input 'revision'``
    :param value: what somebody gave; keys and values inside it count as well
    :raises ConfigurationError: naming the part, and what to do instead
    """
    _refuse(
        what,
        value,
        _OF_PIPELINES,
        "which Kubeflow Pipelines replaces on its way to a step: it would rewrite the step's inputs",
    )


def refuse_variables(what: str, value: Any) -> None:
    """Refuse a value in which Argo, which carries out Kubeflow's runs, would replace something, or at which it would stop.

    :param what: what it is, for messages
    :param value: what somebody gave; keys and values inside it count as well
    :raises ConfigurationError: naming the part, and what to do instead
    """
    _refuse(
        what,
        value,
        _OF_ARGO,
        "which is a variable of Argo Workflows: it carries out the runs of Kubeflow Pipelines, and would replace it, or refuse the run",
    )


def refuse_expansions(what: str, value: Any) -> None:
    """Refuse a value that Kubernetes would change in a container's command: ``$(NAME)`` to a variable's value, ``$$`` to ``$``.

    :param what: what it is, for messages
    :param value: what somebody gave; keys and values inside it count as well
    :raises ConfigurationError: naming the part, and what to do instead
    """
    _refuse(
        what,
        value,
        _OF_KUBERNETES,
        "which Kubernetes replaces in a step's command, $(NAME) by a variable's value and $$ by $",
    )


def _refuse(what: str, value: Any, refused: re.Pattern[str], because: str) -> None:
    if (found := _find(value, refused, "")) is not None:
        path, text = found
        inside = f" at {path.lstrip('.')}" if path else ""
        raise ConfigurationError(
            f"{what} has {shown_value(text, 60)} in it{inside}, {because}. {_AS_ARTIFACT}."
        )


def _find(value: Any, refused: re.Pattern[str], path: str) -> tuple[str, str] | None:
    if isinstance(value, str):
        match = _match(value, refused)
        return (path, match[0]) if match else None
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str) and (match := _match(key, refused)):
                return f"{path} (a key)", match[0]
            if found := _find(item, refused, f"{path}.{key}"):
                return found
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if found := _find(item, refused, f"{path}[{index}]"):
                return found
    return None


def _match(text: str, refused: re.Pattern[str]) -> re.Match[str] | None:
    return refused.search(text) or (refused.search(_ESCAPED.sub(_decoded, text)) if "\\" in text else None)


def _decoded(escaped: re.Match[str]) -> str:
    if escaped[1]:
        return chr(int(escaped[1], 16))
    return " " if escaped[2] else "\\"
