# ruff: noqa: UP014, UP045 - KFP reads these forms
"""Pipelines as a user writes them: Python functions that the compiler puts ``pip install kfp`` in front of.

python tests/fakes/user_pipelines.py DIRECTORY
"""

import sys
import warnings
from pathlib import Path
from typing import NamedTuple, Optional

from kfp import compiler, dsl

warnings.simplefilter("ignore")


@dsl.component
def tell(text: str, n: Optional[int] = None, ns: list = [1], rate: float = 0.5) -> str:  # noqa: B006
    return f"{text}; {n!r}; {ns!r}; {rate!r}"


@dsl.component
def measure(n: int) -> NamedTuple(
    "Outputs", [("whole", int), ("part", float), ("ns", list), ("facts", dict)]
):
    return (n, n / 2, [n, n + 1], {"n": n, "ok": True})


@dsl.component
def half(n: int) -> int:
    if n == 13:
        raise ValueError("13 is unlucky")
    print(f"half of {n}")
    return n // 2


@dsl.pipeline
def everything(n: int = 7, left_out: Optional[int] = None, rate: float = 1.0) -> NamedTuple(
    "Outputs",
    [("whole", int), ("part", float), ("facts", dict), ("halves", list), ("told", str), ("again", str)],
):
    measured = measure(n=n)
    told = tell(
        text=f"n is {n} and {measured.outputs['whole']}, rate {rate}",
        n=left_out,
        ns=measured.outputs["ns"],
        rate=rate,
    )
    again = tell(text="again", ns=[7, 8])
    with dsl.ParallelFor([2, 4]) as item:
        halved = half(n=item)
    with dsl.If(measured.outputs["whole"] > 5):
        tell(text="large")
    with dsl.Else():
        tell(text="small")
    outputs = NamedTuple(
        "Outputs",
        [("whole", int), ("part", float), ("facts", dict), ("halves", list), ("told", str), ("again", str)],
    )
    return outputs(
        measured.outputs["whole"],
        measured.outputs["part"],
        measured.outputs["facts"],
        dsl.Collected(halved.output),
        told.output,
        again.output,
    )


@dsl.component
def report(status: dsl.PipelineTaskFinalStatus, path: str):
    from pathlib import Path

    Path(path).write_text(f"{status.pipeline_task_name} {status.state}")


@dsl.pipeline
def unlucky(report_to: str):
    with dsl.ExitHandler(report(path=report_to)):
        with dsl.ParallelFor([2, 13, 6]) as item:
            half(n=item)
        tell(text="never").after(half(n=2), half(n=13))


@dsl.component
def flaky(counter: str, fails: int) -> int:
    from pathlib import Path

    with Path(counter).open("a") as file:
        file.write("x")
    attempt = len(Path(counter).read_text())
    if attempt <= fails:
        raise RuntimeError(f"attempt {attempt} fails")
    return attempt


@dsl.pipeline
def retried(counter: str, fails: int = 2) -> int:
    return flaky(counter=counter, fails=fails).set_retry(2, backoff_duration="0s").output


@dsl.component(packages_to_install=["tiny-tool==1.0"])
def packaged() -> str:
    import sys

    import tiny_tool

    print(f"prefix {sys.prefix}")
    return tiny_tool.WORD


@dsl.component(packages_to_install=["psutil==0.1"])
def replacing() -> str:
    import psutil

    return psutil.WORD


@dsl.component(packages_to_install=["no-such-tool==1.0"])
def missing() -> str:
    return "never"


@dsl.component
def installing() -> str:
    import importlib
    import subprocess
    import sys

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "tiny-tool==1.0"], check=True)
    subprocess.run(["pip", "install", "-q", "psutil==0.1"], check=True)
    importlib.invalidate_caches()
    import tiny_tool

    return tiny_tool.WORD


if __name__ == "__main__":
    for made in (everything, unlucky, retried, flaky, packaged, replacing, missing, installing):
        compiler.Compiler().compile(made, str(Path(sys.argv[1], f"{made.name}.yaml")))
