"""Makes virtual environments, with nothing but the standard library and pip.

Behind ``llmops data-plane`` and ``dev/setup``, which differ in what they install. An environment that was interrupted is gone on
with; one that nothing has changed of since is left alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from airflow_provider_llmops.cli.environments import Environment, empty
from airflow_provider_llmops.cli.machine import SetupError, check_disk, for_the_owner, without_credentials
from airflow_provider_llmops.cli.pins import UNLOCKED, unlocked, why_unlocked
from airflow_provider_llmops.cli.progress import Progress
from airflow_provider_llmops.cli.torch_builds import (
    CPU_SIZE,
    CUDA_SIZE,
    cpu_hint,
    describe,
    installed_build,
    torch_build,
)

KILL_GRACE_SECONDS = 3.0


@dataclass
class Installer:
    """Makes environments side by side and prints one line for each part.

    Side by side because pip alternates between waiting for the network and using one core.

    :param interpreter: the Python that they are made with
    """

    interpreter: Path
    running: dict[Environment, subprocess.Popen[bytes]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    cancelled: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    progress: Progress = field(default_factory=Progress)

    def install(self, environments: Sequence[Environment]) -> None:
        """Make or update the environments.

        :raises SetupError: with the end of pip's output, after the other environments were stopped.
        """
        threads = [threading.Thread(target=self._make, args=(each,), daemon=True) for each in environments]
        started = time.monotonic()
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                self.progress.show_activity(time.monotonic() - started, list(self.running))
                threads[0 if threads[0].is_alive() else -1].join(0.5)
        except BaseException:
            self.cancel()
            raise
        finally:
            self.progress.clear_line()
        if self.failures:
            raise SetupError(self.failures[0])

    def cancel(self) -> None:
        """End whatever is running, with the processes below it."""
        with self.lock:
            self.cancelled = True
            processes = list(self.running.values())
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in processes:
                # One that has been waited for has given its number back, which may be another's by now.
                if process.poll() is None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, number)
            deadline = time.monotonic() + KILL_GRACE_SECONDS
            while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
                time.sleep(0.05)

    def _make(self, environment: Environment) -> None:
        unfinished = {"interpreter": str(self.interpreter), **unlocked()}
        try:
            before = environment.read_stamp()
            # Without a stamp it is half made, or from somebody's hand: finished if its Python is the right one.
            is_same = before.get("interpreter", str(self.interpreter)) == str(self.interpreter)
            # pip looks at no digest of what is there already.
            is_unverified = bool(before.get(UNLOCKED)) and not why_unlocked()
            if not is_same or is_unverified or not self._works(environment):
                empty(environment.directory)
                # Before there is anything else in it: what is interrupted now is known to be ours.
                environment.write_stamp(unfinished)
                make = [str(self.interpreter), "-m", "venv", str(environment.directory)]
                self._step(environment, "new environment", make)
            environment.write_stamp(unfinished)
            build = self._check_build(environment)
            if reason := why_unlocked(build):
                self.progress.say(f"  {environment.name:8} by version, not by hash: {reason}")
            pip = [
                str(environment.python),
                "-m",
                "pip",
                "install",
                "--no-input",
                "--disable-pip-version-check",
            ]
            for title, arguments in environment.steps(build):
                self._step(environment, title, [*pip, "--progress-bar", "off", *arguments])
            environment.write_stamp(environment.stamp(self.interpreter))
        except (SetupError, OSError) as error:
            self.failures.append(str(error))
            self.cancel()

    def _works(self, environment: Environment) -> bool:
        code = "import os, sys, pip; print(os.path.realpath(sys.executable))"
        try:
            answer = subprocess.run(
                [environment.python, "-c", code], capture_output=True, text=True, check=False
            )
        except OSError:
            return False
        return answer.returncode == 0 and answer.stdout.strip() == str(self.interpreter)

    def _check_build(self, environment: Environment) -> str:
        """Which build of torch is going to be installed. A large one is named, and refused where the disk has no room for it."""
        torch = environment.torch()
        if torch is None:
            return "cpu"
        requirement, sources = torch
        if build := installed_build(environment.directory, requirement):
            return build
        build = torch_build(environment.python, requirement, sources)
        if build == "cpu":
            check_disk([(environment.directory, CPU_SIZE)])
            return build
        self.progress.say(
            f"  {environment.name:8} {requirement} comes with CUDA here: {describe(CUDA_SIZE)}; {cpu_hint()}"
        )
        check_disk(
            [(environment.directory, CUDA_SIZE)], f" That is the build of torch with CUDA; {cpu_hint()}"
        )
        return build

    def _step(self, environment: Environment, title: str, command: Sequence[str]) -> None:
        started = time.monotonic()
        with open(environment.log, "ab", opener=for_the_owner) as log:
            log.write(f"\n$ {without_credentials(' '.join(command))}\n".encode())
            log.flush()
            with self.lock:
                if self.cancelled:
                    raise SetupError(f"{environment.title}: stopped.")
                # A group of its own, so that the build processes that pip starts can be ended with it.
                process = self.running[environment] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        code = process.wait()
        with self.lock:
            self.running.pop(environment, None)
        if code == 0:
            self.progress.say(f"  {environment.name:8} {title:58} {time.monotonic() - started:6.1f} s")
            return
        tail = environment.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        raise SetupError(
            f"{environment.title}: {title} failed with exit code {code}. The last lines of {environment.log}:\n"
            + "\n".join(f"    {without_credentials(line)}" for line in tail)
        )
