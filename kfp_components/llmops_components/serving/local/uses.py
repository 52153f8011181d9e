"""What a service serves is part of a pipeline run's directory, which has to stay as long as the service may need it."""

from __future__ import annotations

import os
import re
from pathlib import Path

USED = "used"  # in a run's directory: touched when somebody takes something of the run
USERS = "used-by"  # in a run's directory: files with the path of what goes on using it


def note_use(path: str | os.PathLike[str], user: Path) -> None:
    """Keep the run that a path belongs to for as long as its user's directory exists.

    Args:
        path: Something that a run made.
        user: Directory of a service's revision, perhaps under another root.
    """
    for run in Path(os.path.realpath(path)).parents:
        if run.parent.name == "runs" and (run / "request.json").is_file():
            (run / USERS).mkdir(exist_ok=True)
            (run / USERS / re.sub(r"\W+", "-", str(user))[-200:]).write_text(str(user), encoding="utf-8")
            (run / USED).touch()  # whoever looked at the run before the file was there sees that it is of use
