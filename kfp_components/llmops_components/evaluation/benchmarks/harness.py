"""lm-evaluation-harness itself: loading its tasks and asking them, with nothing of a task run and nothing said for a terminal."""

from __future__ import annotations

import io
import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from llmops_components.errors import DataError, ModelError, SettingError, UnavailableError, shortened
from llmops_components.passthrough.refusals import refusals

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

LOGGER = "lm_eval"
_SAYS_WHAT_WAS_ASKED = ("lm_eval.evaluator",)  # such as that num_fewshot is another one than a task's
_PROGRESS_SECONDS = 5.0
_LONGEST_WARNING = 300  # it may repeat a row


@dataclass(frozen=True)
class Chosen:
    """Tasks that are loaded.

    Args:
        tasks: Each task by name, by the name that was asked for.
        given: What lm_eval is given for them.
        manager: What has loaded them. Without one lm_eval reads the files of all of its tasks.
    """

    tasks: dict[str, dict[str, Any]]
    given: list[Any]
    manager: TaskManager


@dataclass(frozen=True)
class Asked:
    """What came of asking.

    Args:
        results: Everything that lm_eval says, without the samples.
        samples: What it says of each sample and filter, by task.
        failed: Why a sample could not be scored, by task and place of the sample.
        warnings: What it warned of, one sentence for each place of its code.
    """

    results: dict[str, Any]
    samples: dict[str, list[dict[str, Any]]]
    failed: dict[str, dict[int, str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def load_tasks(manager: TaskManager, names: Sequence[str], *, num_fewshot: int | None) -> Chosen:
    """Load tasks with their rows.

    Args:
        manager: What loads them.
        names: Tasks, groups or tags.
        num_fewshot: Examples before each question; None for what each task says.

    Raises:
        SettingError: A task cannot be loaded, or not with so many examples.
        UnavailableError: Its rows cannot be fetched.
    """
    tasks: dict[str, dict[str, Any]] = {}
    given: list[Any] = []
    seen: dict[str, str] = {}
    for name in names:
        try:
            with refusals(f"Task {name} cannot be loaded"):
                loaded = manager.load([name])
        except ConnectionError as error:
            raise _no_rows(name, error) from error
        for each in loaded["tasks"]:
            if each in seen:
                raise SettingError(
                    f"task_names has the task {each} twice, in {seen[each]} and in {name}. Leave out one of them."
                )
            seen[each] = name
        tasks[name] = dict(loaded["tasks"])
        groups = loaded.get("groups", {})
        given += [groups[name]] if name in groups else list(loaded["tasks"].values())
    for name, found in tasks.items():
        for task in found.values():
            _check_examples(name, task, num_fewshot)
    return Chosen(tasks, given, manager)


def _no_rows(name: str, error: Exception) -> Exception:
    from datasets import config

    if config.HF_HUB_OFFLINE:
        return SettingError(
            f"The task {name} takes its rows from the Hugging Face hub; they are not in the cache here, and nothing may be fetched. Set "
            "download, or put the rows beside a task file of yours."
        )
    return UnavailableError(f"The rows of the task {name} cannot be fetched: {error}")


def _check_examples(name: str, task: Any, num_fewshot: int | None) -> None:
    own = task.get_config("num_fewshot")
    if num_fewshot and own == 0:
        raise SettingError(
            f"num_fewshot is {num_fewshot}, and the task {name} says that it takes none. Leave num_fewshot out."
        )
    config = task.get_config("fewshot_config")
    is_there = config is not None and (config.split is not None or config.samples is not None)
    wanted = (own or 0) if num_fewshot is None else num_fewshot
    if wanted and not is_there and not task.has_training_docs() and not task.has_validation_docs():
        raise SettingError(
            f"The task {name} has no examples beside the rows that it asks, so that a prompt would hold answers. Give num_fewshot 0, or "
            "name a split with fewshot_split in its file."
        )


def ask(
    chosen: Chosen,
    network: Any,
    tokenizer: Any,
    *,
    num_fewshot: int | None,
    limit: int | None,
    batch_size: int,
    chat_template: bool,
    seed: int,
) -> Asked:
    """Ask all tasks, as lm_eval's ``simple_evaluate`` does.

    Args:
        chosen: The tasks.
        network: A causal language model.
        tokenizer: Its tokenizer.
        num_fewshot: Examples before each question; None for what each task says.
        limit: Most rows of each task, its first ones; None for all.
        batch_size: Prompts asked together.
        chat_template: Whether prompts are messages, written by the tokenizer's chat template.
        seed: Seed of the choice of examples, and of what is sampled.

    Raises:
        SettingError: lm_eval refuses what is asked for.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    if chat_template and not tokenizer.chat_template:
        raise ModelError(
            "The tokenizer has no chat template, and chat_template is true. Leave it out, or use an instruction-tuned model."
        )
    failed: dict[str, dict[int, str]] = {}
    for found in chosen.tasks.values():
        for name, task in found.items():
            _guard(task, failed.setdefault(name, {}))
    with _heard():
        asked = HFLM(pretrained=network, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
    with _heard() as heard, refusals("The tasks cannot be asked"):
        results = simple_evaluate(
            asked,
            tasks=chosen.given,
            task_manager=chosen.manager,
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=chat_template,
            bootstrap_iters=0,  # of its own standard errors, which take long; the comparison has intervals
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    if results is None:
        raise DataError(
            "lm_eval gives no results: it runs in a process that is not the first. Run it in one process."
        )
    samples = results.pop("samples")
    warnings = [_told(each) for each in heard.values()]
    return Asked(dict(results), samples, failed, warnings)


def _told(messages: Sequence[str]) -> str:
    first = shortened(" ".join(messages[0].split()), _LONGEST_WARNING)
    return f"lm_eval warned {'once' if len(messages) == 1 else f'{len(messages)} times'}: {first}"


def _guard(task: Any, failed: dict[int, str]) -> None:
    """Have a row that a task cannot score be one without a score, instead of the end of everything."""
    score, places = task.process_results, itertools.count()

    def guarded(doc: Any, results: Any) -> dict[str, Any]:
        place = next(places)
        try:
            found: dict[str, Any] = score(doc, results)
        except Exception as error:
            failed[place] = f"scoring it failed with {type(error).__name__}: {error}"
            return {}
        return found

    task.process_results = guarded


@contextmanager
def _heard() -> Iterator[dict[tuple[str, int], list[str]]]:
    """What lm_eval warns of, by where it does: of a prompt that is cut it tells in its log alone."""
    found: dict[tuple[str, int], list[str]] = {}

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name not in _SAYS_WHAT_WAS_ASKED:
                found.setdefault((record.pathname, record.lineno), []).append(record.getMessage())

    logger, handler = logging.getLogger(LOGGER), Handler(logging.WARNING)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


class _Lines(io.TextIOBase):
    """A bar that is drawn again and again, as lines of a log."""

    def write(self, text: str) -> int:
        if line := text.strip():
            print(line, flush=True)
        return len(text)


@contextmanager
def confined(*, download: bool) -> Iterator[None]:
    """For the length of a block, lm_eval runs no code of a template or of the hub, and stays off the network unless it may.

    Args:
        download: Whether rows may be fetched.
    """
    import datasets.config
    import evaluate
    import huggingface_hub.constants
    import lm_eval.api.task
    import lm_eval.evaluator
    import lm_eval.models.huggingface
    import lm_eval.utils
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment
    from tqdm import tqdm

    templates = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    templates.filters["regex_replace"] = lm_eval.utils.regex_replace
    bar = partial(
        tqdm,
        file=_Lines(),
        mininterval=_PROGRESS_SECONDS,
        delay=_PROGRESS_SECONDS,
        bar_format="{desc}: {n_fmt} of {total_fmt}, eta {remaining}",
    )
    with ExitStack() as stack:
        enter = stack.enter_context
        enter(patch.object(lm_eval.utils, "env", templates))
        enter(patch.object(evaluate, "load", _refuse_code_of_the_hub))
        enter(patch.object(lm_eval.evaluator, "add_env_info", _versions))
        enter(patch.object(lm_eval.evaluator, "get_git_commit_hash", lambda: None))
        for module in (lm_eval.api.task, lm_eval.models.huggingface):
            enter(patch.object(module, "tqdm", bar))
        if not download:
            enter(patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True))
            enter(patch.object(datasets.config, "HF_HUB_OFFLINE", True))
        yield


def _refuse_code_of_the_hub(name: str, *_: Any, **__: Any) -> None:
    raise SettingError(
        f"The metric {name!r:.60} is code of the Hugging Face hub, which is not run here. Choose another task."
    )


def _versions(results: dict[str, Any]) -> None:
    """What results say of where they were made; lm_eval itself describes the machine."""
    from importlib.metadata import version

    results |= {f"{name}_version": version(name) for name in ("lm_eval", "transformers", "torch")}
    results["python_version"] = sys.version.split()[0]
