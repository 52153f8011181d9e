"""Whether new rows are like those that came before."""

from llmops_components.data.drift.monitor import monitor_data

__all__ = ["monitor_data"]
