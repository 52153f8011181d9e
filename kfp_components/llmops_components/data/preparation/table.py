"""The steps by name."""

from __future__ import annotations

from llmops_components.data.preparation.step import Step
from llmops_components.data.preparation.steps.chats import ConvertChat
from llmops_components.data.preparation.steps.columns import MapColumns
from llmops_components.data.preparation.steps.custom import Custom
from llmops_components.data.preparation.steps.draw import Mix, Sample, Split
from llmops_components.data.preparation.steps.duplicates import DropDuplicates
from llmops_components.data.preparation.steps.language import FilterLanguage
from llmops_components.data.preparation.steps.length import FilterLength
from llmops_components.data.preparation.steps.near_duplicates import DropContaminated, DropNearDuplicates
from llmops_components.data.preparation.steps.normalise import Normalise
from llmops_components.data.preparation.steps.personal_data import FilterToxicity, RedactPersonalData
from llmops_components.data.preparation.steps.quality import FilterQuality, FilterRepetition
from llmops_components.data.preparation.steps.sources import AllowSources

_STEPS: tuple[type[Step], ...] = (
    Normalise,
    MapColumns,
    ConvertChat,
    FilterLength,
    FilterLanguage,
    FilterRepetition,
    FilterQuality,
    AllowSources,
    FilterToxicity,
    DropDuplicates,
    DropNearDuplicates,
    DropContaminated,
    RedactPersonalData,
    Custom,
    Split,
    Sample,
    Mix,
)
STEPS: dict[str, type[Step]] = {each.step: each for each in _STEPS}
