"""The image installs what the locks name, on a base that cannot be moved, for a user that is not root."""

from __future__ import annotations

import re

from planes import REPO

LINES = (REPO / "kfp_components/Dockerfile").read_text("utf-8").replace("\\\n", "").splitlines()
INSTRUCTIONS = [line.partition(" ") for line in LINES if line and not line.startswith("#")]


def test_base_image_has_no_default_and_is_refused_without_a_digest() -> None:
    assert INSTRUCTIONS[0] == ("ARG", " ", "BASE")
    assert INSTRUCTIONS[1] == ("FROM", " ", "${BASE}")
    (check,) = [text for name, _, text in INSTRUCTIONS if name == "RUN" and "$BASE" in text]
    assert check.startswith('case "$BASE" in *@sha256:*) ;; *) echo') and "exit 1" in check


def test_everything_is_installed_by_digest_and_the_project_without_what_it_needs() -> None:
    installs = [text for name, _, text in INSTRUCTIONS if name == "RUN" and "pip install" in text]
    locked, project = installs
    assert re.search(
        r'install="pip install --no-cache-dir --require-hashes --no-deps --no-build-isolation"', locked
    )
    files = re.findall(r"\$install (?:\$index )?-r (\S+)", locked)
    assert files == ["locks/build.txt", '"locks/torch-$TORCH_BUILD.txt"', "locks/data-plane.txt"]
    assert project == "pip install --no-cache-dir --no-deps --no-build-isolation ./kfp_components"


def test_user_is_a_number() -> None:
    assert INSTRUCTIONS[-1] == ("USER", " ", "1000:1000")


def test_user_of_that_number_may_be_there_already() -> None:
    (made,) = [text for name, _, text in INSTRUCTIONS if name == "RUN" and "useradd" in text]
    assert made.startswith("getent passwd 1000 >/dev/null || useradd ")


def test_only_what_is_copied_goes_into_the_build() -> None:
    ignored = (REPO / ".dockerignore").read_text("utf-8").splitlines()
    patterns = [line for line in ignored if line and not line.startswith("#")]
    assert patterns[0] == "*"
    let_in = {line[1:] for line in patterns if line.startswith("!")}
    copied = [text.split()[0].rstrip("/") for name, _, text in INSTRUCTIONS if name == "COPY"]
    assert copied == ["airflow_provider_llmops/cli/locks", "kfp_components"]
    assert all(any(name.startswith(source) for source in copied) for name in let_in)
    assert all((REPO / name.removesuffix("/**").removesuffix("/*.txt")).exists() for name in let_in)
