"""Checks the conf of a run against the parameters of its DAG, without a running Airflow.

Started by :func:`problems_of` as a process of its own: Airflow reads its configuration, and makes its home, at import.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOREIGN_SETTINGS = ("AIRFLOW_", "_AIRFLOW")


def problems_of(conf: Mapping[str, Any], dag_id: str, dags_folder: Path) -> list[str]:
    """What Airflow or the DAG's first task would refuse of a conf; empty when the conf is good.

    :param conf: what the DAG would be triggered with
    :param dag_id: the DAG
    :param dags_folder: folder with its file
    """
    foreign = {name for name in os.environ if name.startswith(FOREIGN_SETTINGS)}
    with tempfile.TemporaryDirectory(prefix="airflow-home-") as home:
        answer = subprocess.run(
            [sys.executable, __file__, dag_id, str(dags_folder), json.dumps(dict(conf))],
            env={
                **{name: value for name, value in os.environ.items() if name not in foreign},
                "AIRFLOW_HOME": home,
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    if answer.returncode:
        return [f"The DAG {dag_id} cannot be read: {answer.stderr.strip().splitlines()[-1]}"]
    return list(json.loads(answer.stdout.splitlines()[-1]))


def _find(dag_id: str, dags_folder: str, conf: Mapping[str, Any]) -> list[str]:
    import jsonschema
    from airflow.dag_processing.dagbag import DagBag

    from airflow_provider_llmops.conf import parameter_names
    from airflow_provider_llmops.exceptions import describe_unknown

    bag = DagBag(dag_folder=dags_folder)
    if dag_id not in bag.dags:
        errors = [f"{path}:\n{error}" for path, error in bag.import_errors.items()]
        return ["\n".join([f"There is no DAG {dag_id} in {dags_folder}.", *errors])]
    dag = bag.dags[dag_id]
    problems = []
    for name, value in conf.items():
        if unknown := describe_unknown([name], parameter_names(dag)):
            problems.append(f"{dag_id} has no parameter {unknown}")
        elif name in dag.params:
            errors = jsonschema.Draft202012Validator(dag.params.get_param(name).schema).iter_errors(value)
            problems += [f"{name}: {error.message}" for error in errors]
    if any("has no parameter" in problem for problem in problems):
        problems.append(f"Its parameters: {', '.join(sorted(parameter_names(dag)))}")
    return problems


if __name__ == "__main__":
    print(json.dumps(_find(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
