"""The steps by name."""

from __future__ import annotations

from llmops_components.data.preparation.step import Step
from llmops_components.data.preparation.steps.duplicates import DropDuplicates
from llmops_components.data.preparation.steps.length import FilterLength
from llmops_components.data.preparation.steps.sources import AllowSources

STEPS: dict[str, type[Step]] = {each.step: each for each in (AllowSources, DropDuplicates, FilterLength)}
