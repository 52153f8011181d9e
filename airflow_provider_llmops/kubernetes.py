"""Where ``StepSettings`` was before 0.1; goes with 0.2."""

from __future__ import annotations

from typing import Any

from airflow_provider_llmops.moved import from_new_place

_MOVED = {"StepSettings": "airflow_provider_llmops.settings.kubernetes"}


def __getattr__(name: str) -> Any:
    return from_new_place(__name__, name, _MOVED)
