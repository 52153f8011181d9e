"""Real rows to try the pipeline on, made offline from the docstrings of Python's standard library.

The task: given the documentation of a function or class, say in one sentence what it does. The expected answer is the
docstring's own summary sentence (PEP 257 puts it first), so the task is extractive: a model has to learn to pick that
sentence, word it as the library does, and stop. Small instruct models paraphrase and ramble until they are tuned.
"""

from __future__ import annotations

import importlib
import inspect
import os
import platform
import random
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmops_components.data.files import write_rows
from llmops_components.errors import SettingError, check_known
from llmops_components.results import StepReport

MAX_DOCUMENTATION_CHARACTERS = 500  # keeps a prompt under about 200 tokens
_SUMMARY_CHARACTERS = range(25, 161)
_MIN_SUMMARY_WORDS = 5
_MIN_RAMBLING_CHARACTERS = 120
_MAX_RAMBLING_CHARACTERS = 400

# Modules that import without side effects and are in every build of Python 3.11 and later. One that is missing
# nevertheless (Python built without SQLite, say) is left out.
MODULES: tuple[str, ...] = tuple(
    """
    argparse array ast asyncio.base_events asyncio.events asyncio.futures asyncio.locks asyncio.protocols
    asyncio.queues asyncio.runners asyncio.streams asyncio.subprocess asyncio.tasks asyncio.timeouts
    asyncio.transports base64 bdb binascii bisect builtins bz2 calendar cmath cmd code codecs codeop collections
    collections.abc compileall concurrent.futures concurrent.futures._base concurrent.futures.process
    concurrent.futures.thread configparser contextlib contextvars copy copyreg csv ctypes.util dataclasses datetime
    decimal difflib dis doctest email.charset email.encoders email.generator email.header email.headerregistry
    email.message email.mime.base email.parser email.policy email.utils enum errno filecmp fileinput fnmatch
    fractions ftplib functools gc genericpath getopt getpass gettext glob graphlib gzip hashlib heapq hmac html
    html.parser http http.client http.cookiejar http.cookies http.server imaplib importlib importlib.abc
    importlib.machinery importlib.metadata importlib.resources importlib.util inspect io ipaddress itertools json
    json.decoder json.encoder keyword linecache locale logging logging.config logging.handlers mailbox marshal math
    mimetypes modulefinder multiprocessing.connection multiprocessing.context multiprocessing.managers
    multiprocessing.pool multiprocessing.process multiprocessing.queues multiprocessing.shared_memory netrc ntpath
    numbers operator os optparse pathlib pickle pickletools pkgutil platform plistlib poplib posixpath pprint
    profile pstats py_compile pyclbr queue quopri random re reprlib runpy sched secrets select selectors
    shelve shlex shutil signal smtplib socket socketserver sqlite3 ssl stat statistics string struct subprocess
    symtable sys tarfile tempfile textwrap threading time timeit token tokenize tomllib trace traceback
    tracemalloc types typing unicodedata unittest.case unittest.loader unittest.mock unittest.result unittest.runner
    unittest.suite urllib.error urllib.parse urllib.request urllib.response urllib.robotparser uuid venv warnings
    wave weakref webbrowser wsgiref.handlers wsgiref.headers wsgiref.simple_server wsgiref.util
    wsgiref.validate xml.dom.minidom xml.dom.pulldom xml.etree.ElementTree xml.sax.handler xml.sax.saxutils
    xml.sax.xmlreader xmlrpc.client xmlrpc.server zipapp zipfile zipimport zlib zoneinfo
    """.split()  # noqa: SIM905 - a literal list would take a line for each
)

_QUESTIONS = (
    "What does `{name}` do? Answer in one sentence.",
    "In one sentence, what is `{name}` for?",
    "Summarize `{name}` in one sentence.",
    "Describe `{name}` in a single sentence.",
    "Give a one-sentence summary of `{name}`.",
    "Explain in one sentence what `{name}` does.",
    "Write the summary line for `{name}`: one sentence.",
    "Which one sentence says best what `{name}` does?",
)
_LAYOUTS = (
    "Documentation of `{name}`:\n\n{documentation}\n\n{question}",
    "{question}\n\nDocumentation of `{name}`:\n\n{documentation}",
    "{documentation}\n\nThis is how Python documents `{name}`. {question}",
)
DATASETS = ("train", "preferences", "evaluation")
VARIANTS = len(_QUESTIONS) * len(_LAYOUTS)

# Docstrings that say nothing of their own about the object.
_UNINFORMATIVE = re.compile(
    r"deprecat|obsolete|help on|alias (for|of|to)|undocumented|not implemented|^(see|same as|like|todo|xxx|note)\b"
    r"|->|>>>|=>| = |::|\(.*\* |overrid|subclass(es)? (must|should|may)|internal|private|backwards? compat"
    r"|initialize self|\bis (called|used) (by|internally)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Documented:
    """A documented function, method or class.

    Args:
        name: Qualified name, such as ``json.dumps``.
        module: Module that it was found in.
        documentation: Signature and docstring, shortened.
        summary: The docstring's summary sentence.
        body: The docstring after the summary, as one paragraph.
    """

    name: str
    module: str
    documentation: str
    summary: str
    body: str


def prepare_sample_data(
    train: str | os.PathLike[str],
    preferences: str | os.PathLike[str],
    evaluation: str | os.PathLike[str],
    *,
    train_rows: int = 400,
    preference_rows: int = 200,
    evaluation_rows: int = 48,
    seed: int = 0,
    only: Sequence[str] | None = None,
) -> StepReport:
    """Write three datasets about the standard library that share no documented object.

    The rows are the same for the same Python version, sizes and seed, whichever of them are written. While there are enough documented objects
    (about 2,900 in Python 3.11) each row is about another one; beyond that an object is asked about in up to 24
    wordings, which ``details["wordings_per_object"]`` tells.

    Args:
        train: Output, conversational prompt/completion rows for SFT.
        preferences: Output, conversational preference rows; the rejected answer is the summary of another object of
            the module, or goes on about details instead of giving the summary.
        evaluation: Output, rows with prompt, reference and contexts.
        train_rows: Rows of ``train``, at least 1.
        preference_rows: Rows of ``preferences``, at least 1.
        evaluation_rows: Rows of ``evaluation``, at least 1.
        seed: Seed of the shuffle and of the choice of wordings and wrong answers.
        only: Datasets that are wanted, of ``train``, ``preferences`` and ``evaluation``; the files of the others are
            empty. None for all.

    Returns:
        Row counts as metrics; the Python version and the number of documented objects as details.

    Raises:
        SettingError: A size is not a positive integer, more rows are asked for than can be made, or ``only`` names
            something else.
    """
    wanted = DATASETS if only is None else tuple(only)
    check_known(wanted, DATASETS, "only")
    sizes = {"train_rows": train_rows, "preference_rows": preference_rows, "evaluation_rows": evaluation_rows}
    for setting, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SettingError(f"{setting} is {value!r}; give a whole number of at least 1.")

    objects = list(_documented_objects())
    # Picking the summary out of a longer text teaches more than repeating a docstring that is nothing else.
    detailed = [each for each in objects if each.body]
    pool = detailed if len(detailed) >= sum(sizes.values()) else objects
    rng = random.Random(seed)  # noqa: S311 - reproducible sampling, not a secret
    rng.shuffle(pool)
    shares = _split(pool, list(sizes.values()))

    known = [each for share in shares[:2] for each in share]  # no evaluation answer may be seen in training
    by_module: dict[str, list[_Documented]] = {}
    for each in known:
        by_module.setdefault(each.module, []).append(each)

    datasets = {
        "train": (train, [_train_row(item, prompt) for item, prompt in _prompts(shares[0], train_rows, rng)]),
        "preferences": (
            preferences,
            [
                _preference_row(item, prompt, _wrong_answer(item, i, by_module, known, rng))
                for i, (item, prompt) in enumerate(_prompts(shares[1], preference_rows, rng))
            ],
        ),
        "evaluation": (
            evaluation,
            [_evaluation_row(item, prompt) for item, prompt in _prompts(shares[2], evaluation_rows, rng)],
        ),
    }
    written = {}
    for name, (path, rows) in datasets.items():
        written[name] = rows if name in wanted else []
        write_rows(path, written[name])
    counts = ", ".join(f"{len(rows)} rows of {name}" for name, rows in written.items() if rows)
    print(f"Wrote {counts} about {len(objects)} documented objects of Python {platform.python_version()}.")
    return StepReport(
        metrics=dict(zip(sizes, map(len, written.values()), strict=True)),
        details={
            "python_version": platform.python_version(),
            "documented_objects": len(objects),
            "wordings_per_object": max(
                -(-rows // len(share)) for rows, share in zip(sizes.values(), shares, strict=True)
            ),
            "seed": seed,
        },
    )


def _split(objects: list[_Documented], sizes: Sequence[int]) -> list[list[_Documented]]:
    """Disjoint shares of the objects: one per row, or in proportion to the rows when there are too few."""
    counts = list(sizes)
    if sum(sizes) > len(objects):
        spare = len(objects) - len(sizes)
        counts = [1 + spare * size // sum(sizes) for size in sizes]
    if len(objects) < len(sizes) or any(size > n * VARIANTS for size, n in zip(sizes, counts, strict=True)):
        hint = "" if objects else " Python was started with -OO, which drops docstrings; start it without."
        raise SettingError(
            f"{sum(sizes)} rows were asked for, but {len(objects)} documented objects in {VARIANTS} wordings make at "
            f"most about {len(objects) * VARIANTS} rows. Ask for fewer rows.{hint}"
        )
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return [objects[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _prompts(share: list[_Documented], rows: int, rng: random.Random) -> Iterator[tuple[_Documented, str]]:
    first = [rng.randrange(VARIANTS) for _ in share]
    for i in range(rows):
        item = share[i % len(share)]
        variant = (first[i % len(share)] + i // len(share)) % VARIANTS
        question = _QUESTIONS[variant % len(_QUESTIONS)].format(name=item.name)
        layout = _LAYOUTS[variant // len(_QUESTIONS)]
        yield item, layout.format(name=item.name, documentation=item.documentation, question=question)


def _messages(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def _train_row(item: _Documented, prompt: str) -> dict[str, Any]:
    return {"prompt": _messages("user", prompt), "completion": _messages("assistant", item.summary)}


def _preference_row(item: _Documented, prompt: str, rejected: str) -> dict[str, Any]:
    return {
        "prompt": _messages("user", prompt),
        "chosen": _messages("assistant", item.summary),
        "rejected": _messages("assistant", rejected),
    }


def _evaluation_row(item: _Documented, prompt: str) -> dict[str, Any]:
    return {"prompt": _messages("user", prompt), "reference": item.summary, "contexts": [item.documentation]}


def _wrong_answer(
    item: _Documented,
    index: int,
    by_module: dict[str, list[_Documented]],
    everything: list[_Documented],
    rng: random.Random,
) -> str:
    """Every other answer rambles, where there is enough text to ramble with; the others are about another object."""
    if index % 2 and len(item.body) >= _MIN_RAMBLING_CHARACTERS:
        return _shorten(item.body, _MAX_RAMBLING_CHARACTERS)
    siblings = [each for each in by_module[item.module] if each is not item]
    others = siblings or [each for each in everything if each is not item]
    # With a single object in all there is no other one: its name is as wrong an answer as can be made from it.
    return rng.choice(others).summary if others else item.name


def _documented_objects() -> Iterator[_Documented]:
    """Functions, classes and methods with a usable docstring, in a fixed order, no summary twice."""
    seen: set[str] = set()
    for module_name in MODULES:
        for name, value in _public_members(module_name):
            item = _documented(module_name, name, value)
            if item is None:
                continue
            key = re.sub(r"\W+", " ", item.summary).casefold()
            if key not in seen:
                seen.add(key)
                yield item


def _public_members(module_name: str) -> Iterator[tuple[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            return
        for name, value in sorted(vars(module).items()):
            # A module's namespace also holds what it imports; `_json` and the like are a module's own C half.
            if name.startswith("_") or getattr(value, "__module__", None) not in (
                module_name,
                f"_{module_name}",
            ):
                continue
            if inspect.isclass(value):
                yield f"{module_name}.{name}", value
                for attribute, member in sorted(vars(value).items()):
                    if not attribute.startswith("_") and inspect.isroutine(member):
                        yield f"{module_name}.{name}.{attribute}", getattr(value, attribute)
            elif inspect.isroutine(value):
                yield f"{module_name}.{name}", value


def _documented(module_name: str, name: str, value: Any) -> _Documented | None:
    # Only the object's own docstring: inspect.getdoc would find an inherited one.
    docstring = value.__doc__
    if not isinstance(docstring, str):
        return None
    docstring = inspect.cleandoc(docstring)
    first, _, rest = docstring.partition("\n\n")
    summary, more = _first_sentence(" ".join(first.split()))
    if (
        len(summary) not in _SUMMARY_CHARACTERS
        or len(summary.split()) < _MIN_SUMMARY_WORDS
        or not re.match(r"[A-Z][a-z]", summary)
        or _UNINFORMATIVE.search(summary)
        or summary[-1] != "."
        or not docstring.isascii()
    ):
        return None
    return _Documented(
        name=name,
        module=module_name,
        documentation=_shorten(
            f"{name.rsplit('.', 1)[-1]}{_signature(value)}\n{docstring}", MAX_DOCUMENTATION_CHARACTERS
        ),
        summary=summary,
        body=" ".join(f"{more} {rest}".split()),
    )


def _first_sentence(paragraph: str) -> tuple[str, str]:
    """The paragraph's first sentence with a full stop, and the rest; abbreviations do not end a sentence."""
    for match in re.finditer(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)\.(?=\s+[A-Z`'\"(]|$)", paragraph):
        return paragraph[: match.end()], paragraph[match.end() :].strip()
    return (f"{paragraph}." if paragraph and paragraph[-1].isalnum() else paragraph), ""


def _signature(value: Any) -> str:
    try:
        signature = str(inspect.signature(value))
    except (TypeError, ValueError):
        return "(...)"
    # An address is another one in each process.
    return "(...)" if " at 0x" in signature or len(signature) > 120 else signature


def _shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    cut = text[: limit - 4]
    return cut[: max(cut.rfind(" "), cut.rfind("\n"))].rstrip() + " ..."
