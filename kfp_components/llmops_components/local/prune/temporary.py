"""The temporary directory that the processes of a run have for themselves."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = "tmp"  # in a run's directory: a symbolic link to its temporary directory


@contextlib.contextmanager
def temporary_directory(run: Path) -> Iterator[None]:
    """Give a run's processes a temporary directory of their own, which goes when the run ends.

    It lies in the system's and not in the run's directory: paths of sockets have 107 characters at most.

    Args:
        run: Directory of the run.
    """
    own = tempfile.mkdtemp(prefix="llmops-run-")
    (run / TEMPORARY).symlink_to(own)
    os.environ["TMPDIR"] = tempfile.tempdir = own
    try:
        yield
    finally:
        tempfile.tempdir = None
        remove_temporary(run)


def remove_temporary(run: Path) -> None:
    """Remove the temporary directory of a run that has ended, and the link to it.

    Args:
        run: Directory of the run.
    """
    link = run / TEMPORARY
    with contextlib.suppress(OSError):
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()
