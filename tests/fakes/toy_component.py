"""A component that does what a test tells it to; compiled in the data plane's environment.

python tests/fakes/toy_component.py OUTPUT.yaml
"""

import sys

from kfp import compiler, dsl
from kfp.dsl import Artifact, Input, Output


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def toy(
    echo: Output[Artifact],
    result: Output[Artifact],
    text: str = "hello",
    seconds: float = 0.0,
    ending: str = "well",
    source: Input[Artifact] = None,
):
    """Write ``text`` (or the content of ``source``), wait, and end in the way that was asked for."""
    import os
    import signal
    import time
    from pathlib import Path

    from llmops_components.errors import DataError
    from llmops_components.kfp._run import run_step
    from llmops_components.results import StepReport

    def work() -> StepReport:
        asked = []
        if ending == "save":  # as a training does: the step under way is finished, then saved
            signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
        print(f"working on {text}", flush=True)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(0.05)
        if asked:
            for percent in (50, 100):
                time.sleep(0.2)
                print(f"saved {percent} %", flush=True)
            raise SystemExit("stopped by SIGTERM")
        Path(echo.path).write_text(Path(source.path).read_text() if source else text)
        if ending == "refuse":
            raise DataError("row 3: completion is empty")
        if ending == "crash":
            raise RuntimeError("something broke")
        if ending == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        return StepReport(
            metrics={"length": len(text)},
            details={"pid": os.getpid(), "variables": sorted(os.environ)},
            passed=ending != "gate",
            findings=["line 3: completion is empty"] if ending == "gate" else [],
        )

    run_step("toy", work, outputs={"echo": echo}, result=result)
    if ending == "no_result":
        Path(result.path).unlink()


if __name__ == "__main__":
    compiler.Compiler().compile(toy, sys.argv[1])
