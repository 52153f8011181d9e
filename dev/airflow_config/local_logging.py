"""Logging of an Airflow whose processes all share one disk (``[logging] logging_config_class``)."""

from __future__ import annotations

import copy
from typing import Any

from airflow.config_templates.airflow_local_settings import DEFAULT_LOGGING_CONFIG
from airflow.utils.log.file_task_handler import FileTaskHandler


class LocalTaskHandler(FileTaskHandler):
    """Reads the logs of running tasks from disk only.

    Airflow also asks the worker's log server. It binds every interface and serves the same files, so it is not
    started; without this, each look at a running task's log would show a refused connection.
    """

    def _read_from_logs_server(self, *args: Any, **kwargs: Any) -> tuple[list[str], list[Any]]:
        return [], []


LOGGING_CONFIG = copy.deepcopy(DEFAULT_LOGGING_CONFIG)
LOGGING_CONFIG["handlers"]["task"]["class"] = f"{__name__}.{LocalTaskHandler.__name__}"
