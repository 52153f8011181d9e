"""Two revisions of a service on the same questions: both are asked, their answers scored and compared row by row."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from llmops_components.data.files import usable_lines, write_output, write_rows
from llmops_components.data.formats import with_our_names
from llmops_components.data.lines import Line
from llmops_components.errors import DataError, SettingError, check_known, named
from llmops_components.evaluation.about import About
from llmops_components.evaluation.side_by_side import Against, Asked, SideBySide, report_of
from llmops_components.inference.batch import batch_inference
from llmops_components.inference.protocols import ProtocolName
from llmops_components.inference.rows import check_questions
from llmops_components.results import StepReport
from llmops_components.state_files import write_json

MAX_WORST = 20  # in the artifact


def compare_revisions(
    dataset: str | os.PathLike[str],
    scores: str | os.PathLike[str],
    report: str | os.PathLike[str],
    worst: str | os.PathLike[str],
    *,
    url: str,
    model_name: str,
    revision: str | None = None,
    baseline_url: str | None = None,
    baseline_revision: str | None = None,
    against: Against | None = None,
    metric_names: Sequence[str] | None = None,
    embedding_model: str | None = None,
    protocol: ProtocolName = "openai_chat",
    request: Mapping[str, Any] | None = None,
    max_rows: int | None = None,
    concurrency: int = 8,
    limits: Mapping[str, Any] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
) -> StepReport:
    """Ask two revisions of a service the same questions, and compare their answers.

    Both are asked at the same time, as :func:`~llmops_components.inference.batch.batch_inference` does it. A row that one of them
    does not answer has no score: it is counted, and told in a finding. The API key comes from the environment, as there.

    Args:
        dataset: Rows with a ``prompt``, or ``messages`` that end with a question, and a ``reference`` where answers are scored
            against one.
        scores: Output, a JSON line a row: question, both answers and their scores, seconds, and the reason where there is no answer.
        report: Output, an HTML page without external parts.
        worst: Output, JSON with the rows that the revision answers worst against the baseline, both answers side by side.
        url: Address of the revision, or of a service of this machine, whose gateway lets a client choose.
        model_name: Name of the served model.
        revision: Name of the revision, where the address is that of a service.
        baseline_url: Address of the revision that it is compared with; the same when left out.
        baseline_revision: Name of that revision.
        against: What answers are scored against: the row's ``reference``, or the ``baseline``'s answer to it, which tells how far both
            agree. Left out, it is the reference if the rows have one.
        metric_names: Names from ``llmops_components.evaluation.metrics.registry.METRICS``, but for ``reward``; all that can be computed by
            default. The first orders the rows in the report.
        embedding_model: Directory or ``package://name`` of the model behind ``semantic_similarity``.
        protocol: As for ``batch_inference``, as are ``request``, ``limits`` and ``checkpoints``.
        request: Further fields of each request.
        max_rows: Ask only the first so many rows; all when left out.
        concurrency: Questions at a time, of each revision.
        limits: How long and how often is asked, by name.
        checkpoints: Directory that outlives the step.

    Returns:
        Counts of rows and of those without an answer, and latencies of both. The comparison has for each metric what both reach and how
        they differ; ``details["worst"]`` has the worst rows, cut short.

    Raises:
        DataError: The dataset cannot be used.
        SettingError: An argument cannot be meant, or a revision refuses everything.
        ServiceGoneError: A revision stopped to answer, and there is a directory to go on from.
    """
    from llmops_components.evaluation.metrics.plan import plan_metrics

    both = (url.rstrip("/"), revision), ((baseline_url or url).rstrip("/"), baseline_revision)
    if both[0] == both[1]:
        raise SettingError(
            f"The revision would be compared with itself: {url}, {revision or 'whichever answers'}. Give revision and baseline_revision, "
            "or baseline_url."
        )
    if both[0][0] == both[1][0] and None in (revision, baseline_revision):
        raise SettingError(
            f"{'revision' if revision is None else 'baseline_revision'} is not given, and both have the address {url}: whichever revision has "
            "its turn would answer, the other one, too. Give both names."
        )
    if metric_names is not None and "reward" in metric_names:
        raise SettingError("metric_names has reward, which is not computed for services. Leave it out.")
    plan = plan_metrics(metric_names, embedding_model)
    if others := [name for name, metric in plan.metrics.items() if not metric.by_default]:
        raise SettingError(
            f"metric_names has {others[0]}, which is not computed of two revisions. Leave it out, or evaluate each as a service."
        )
    plan = replace(plan, skipped={name: why for name, why in plan.skipped.items() if name != "reward"})
    lines = usable_lines(dataset)
    # Beside the output, where a second call with the same one goes on.
    places = [Path(f"{os.fspath(scores)}.{name}") for name in ("candidate", "baseline")]
    questions = dataset
    if max_rows is not None:
        questions = _first_rows(lines, max_rows, Path(f"{os.fspath(scores)}.questions", "rows.jsonl"))
        lines = usable_lines(questions)
    check_questions(dataset, lines, protocol)
    rows = [with_our_names(line.row or {}) for line in lines]
    scored_against = _against(rows, against)

    def ask(place: Path, url: str, revision: str | None) -> Asked:
        answers, rejected = place / "answers.jsonl", place / "rejected.jsonl"
        said = batch_inference(
            questions,
            answers,
            rejected,
            url=url,
            model_name=model_name,
            protocol=protocol,
            request=request,
            concurrency=concurrency,
            limits=limits,
            min_answered=0,
            checkpoints=Path(checkpoints, place.suffix[1:]) if checkpoints else None,
            revision=revision,
        )
        if len(said.details["revisions"]) > 1:
            raise SettingError(
                f"Several revisions have answered at {url}, which would be compared as one: {', '.join(said.details['revisions'])}. Give the "
                "name of one."
            )
        return Asked.read(said, answers, rejected, [line.number for line in lines])

    with ThreadPoolExecutor(len(places)) as threads:
        candidate, baseline = threads.map(lambda place, whom: ask(place, *whom), places, both)
    compared = SideBySide.of(plan, rows, candidate, baseline, scored_against)
    found = compared.lines()
    write_output(scores, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found))
    settings = {
        **(request or {}),
        "protocol": protocol,
        "revision": revision,
        "baseline_revision": baseline_revision,
    }
    about = About.of_service("compare_revisions", model_name, url, dataset, settings=settings)
    write_output(report, compared.page(found, about))
    worse = compared.worst(found)
    write_json(Path(worst), {"against": scored_against, "metric": compared.first, "rows": worse[:MAX_WORST]})
    for place in [*places, *([Path(questions).parent] if max_rows is not None else [])]:
        shutil.rmtree(place)
    return report_of(compared, worse)


def _first_rows(lines: Sequence[Line], count: int, path: Path) -> Path:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise SettingError(f"max_rows is {count!r:.60}. Give a whole number from 1 on, or leave it out.")
    write_rows(path, [line.row or {} for line in lines[:count]])
    return path


def _against(rows: Sequence[Mapping[str, Any]], given: Against | None) -> Against:
    """What answers are scored against; a reference that some rows lack is an error, unless nobody looks at it."""
    if given is not None:
        check_known([given], get_args(Against), "against")
    lacking = [
        number for number, row in enumerate(rows, start=1) if not isinstance(row.get("reference"), str)
    ]
    if given == "baseline" or (given is None and len(lacking) == len(rows)):
        return "baseline"
    if lacking:
        raise DataError(
            f"{len(lacking)} of {len(rows)} rows have no text as reference: row {named(lacking)}. Give all of them one, or score "
            "answers against the baseline's: against is 'baseline'."
        )
    return "reference"
