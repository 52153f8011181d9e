"""Continues a script in a Python that the project supports, if the one that started it is none.

Imported before anything else by the scripts here, and written so that any Python 3 can read it.
"""
# ruff: noqa: PTH100, RUF005, S606, UP031

import os
import shutil
import subprocess
import sys

SUPPORTED = ((3, 11), (3, 12), (3, 13))


def use_supported():
    """Return if this Python is supported; else start the script again in one that is, or end with one line."""
    if sys.version_info[:2] in SUPPORTED:
        return
    for version in SUPPORTED:
        python = shutil.which("python%d.%d" % version)
        # A name on PATH need not run: version managers put one there for every Python that they know of.
        if python and not subprocess.call([python, "-c", ""], stderr=subprocess.DEVNULL):
            os.execv(python, [python, os.path.abspath(sys.argv[0])] + sys.argv[1:])
    sys.exit(
        "Python 3.11 to 3.13 is needed; this is %d.%d (%s) and PATH has none of them. "
        "Install one, or start this script with it: /path/to/python3.12 %s"
        % (sys.version_info[0], sys.version_info[1], sys.executable, " ".join(sys.argv))
    )


use_supported()
