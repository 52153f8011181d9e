"""Whether the rows of a dataset are fit for what they are for: Great Expectations judges them, the bad ones are set aside."""

from llmops_components.data.validation.validate import validate_dataset

__all__ = ["validate_dataset"]
