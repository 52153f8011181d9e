"""What is in a data set, at a glance: a page to read and the same as JSON."""

from llmops_components.data.profile.profile import profile_dataset

__all__ = ["profile_dataset"]
