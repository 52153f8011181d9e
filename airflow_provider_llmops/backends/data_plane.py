"""The other side of the wall, when it is on this machine: an interpreter in another environment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError

# The worker's environment holds connections, the Fernet key and the task's token; no step or service needs them.
_PRIVATE_PREFIXES = ("AIRFLOW_", "_AIRFLOW", "PYTHONPATH", "VIRTUAL_ENV")
# OpenMP's threads spin while they wait. Beside anything else on the same cores, a scheduler or a service, that makes torch
# many times slower than waiting in the kernel does.
_DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE"}
_CHECK_TIMEOUT_SECONDS = 60.0


class DataPlane:
    """The interpreter in whose environment ``llmops-components`` is installed.

    :param python: its path
    """

    def __init__(self, python: str | os.PathLike[str]) -> None:
        self.python = Path(python)

    def require(self) -> None:
        """Raise :class:`ConfigurationError` if the interpreter cannot be executed."""
        if not os.access(self.python, os.X_OK):
            raise ConfigurationError(
                "The data plane's interpreter does not exist or cannot be executed. Make it (llmops data-plane create, or "
                "dev/setup in a checkout), or correct 'python' in the connection's extra.",
                f"Interpreter: {self.python}",
            )

    def check(self) -> str:
        """Make sure that the components can be imported; returns the version of Python."""
        answer = self.run(["-c", "import llmops_components, sys; print(sys.version.split()[0])"])
        if answer.returncode != 0:
            last = last_line(answer.stderr)
            raise ConfigurationError(
                f"The data plane cannot import the components: {last}. Make it anew (llmops data-plane create, or "
                "dev/setup in a checkout), or correct 'python' in the connection's extra.",
                f"Interpreter: {self.python}",
            )
        return answer.stdout.strip()

    def run(
        self,
        arguments: Sequence[str],
        *,
        stdin: str | None = None,
        timeout: float = _CHECK_TIMEOUT_SECONDS,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the interpreter and wait for it.

        :param arguments: its arguments
        :param stdin: text for its standard input
        :param timeout: seconds after which it is killed
        :param environment: further variables, the place for secrets
        :raises ApiUnavailableError: it took longer
        """
        self.require()
        try:
            return subprocess.run(
                [self.python, *arguments],
                input=stdin or "",
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                env=self.environment(environment or {}),
            )
        except subprocess.TimeoutExpired as error:
            raise ApiUnavailableError(
                f"The data plane did not answer within {timeout:.0f} s and was stopped. Look at the load, the memory and the "
                "disk of this machine: something else is using them up.",
                f"Command: {self.python} {' '.join(arguments):.200}",
            ) from error

    @staticmethod
    def environment(extra: Mapping[str, str]) -> dict[str, str]:
        """This process's environment without what belongs to Airflow alone, and with more variables.

        :param extra: variables to add; they and the inherited ones win over the defaults
        """
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE_PREFIXES)
        }
        return {**_DEFAULTS, **inherited, **extra}


def last_line(output: str) -> str:
    """The last thing that a process said, for a message.

    :param output: its standard error
    """
    return (output.strip().splitlines() or ["no output"])[-1]
