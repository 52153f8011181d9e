"""What libraries say of themselves does not stand in a task's log."""

from __future__ import annotations

import subprocess
import sys


def test_torchao_is_imported_without_a_word() -> None:
    code = "from llmops_components.quiet import quiet_torchao; quiet_torchao(); import torchao"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
