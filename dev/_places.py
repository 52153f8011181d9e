"""Where the parts of this checkout are."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
STACKS = REPOSITORY / ".stacks"
CONTROL_PYTHON = REPOSITORY / ".venv/control/bin/python"
DATA_PYTHON = REPOSITORY / ".venv/data/bin/python"
