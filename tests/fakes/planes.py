"""Where the repository and the data plane's interpreter are, for tests that reach across the wall."""

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
DATA_PYTHON = REPO / ".venv" / "data" / "bin" / "python"
