"""Shared by the tests of both planes: makes ``tests/fakes`` importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "fakes"))
