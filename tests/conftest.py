"""Shared by the tests of both planes: makes ``tests/fakes`` importable, and says how fuzz tests run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "fakes"))

import fuzzing

fuzzing.load_profile()
