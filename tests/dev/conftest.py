"""Puts the tools on the import path and keeps every stack of a test in its temporary directory."""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(REPOSITORY / "dev"))
