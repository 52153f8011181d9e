"""What the trainer's tokenizer shows of rows: those that its chat template refuses or cuts, and those that never end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from traceback import walk_tb
from typing import Any

from llmops_components.data.formats import partly_filled
from llmops_components.data.rendering import loss_finding, losses, refusal
from llmops_components.data.sources import Source
from llmops_components.errors import DataError, ModelError

_RENDERED_ROWS = 1000  # about a second
_STREAMED_ROWS = 200
_LEARNED_ROWS = 200
_IGNORED = -100
# What TRL hands to a reward function by itself, besides the row's own columns; of these it leaves out completion_ids.
_REWARD_ARGUMENTS = ("prompts", "completions", "trainer_state", "log_extra", "log_metric")
_TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")
# What the trainers call the tokens that they learn from.
_LEARNED = ("labels", "completion_ids", "chosen_ids", "rejected_ids")


def check_columns(source: Source, columns: Sequence[str] | None) -> None:
    """Raise :class:`DataError` where a column is missing in some rows, or has a name that is taken.

    Args:
        source: The rows.
        columns: Columns that the trainer reads; None where it hands all to reward functions.
    """
    if columns is not None and "margin" not in columns:
        return
    known = islice(source.read(), _STREAMED_ROWS) if source.rows is None else source.rows
    rows = [(f"row {number}", row) for number, row in enumerate(known, start=1)]
    if columns is None:
        if taken := next((name for name in _REWARD_ARGUMENTS if any(name in row for _, row in rows)), None):
            raise DataError(
                f"{taken} is the name of what the trainers hand to reward functions by themselves. Give the column another "
                f"name. Dataset: {source.name}."
            )
    elif problem := partly_filled(rows, "margin", "it is taken in all rows or in none"):
        raise DataError(f"{problem} Dataset: {source.name}.")


def check_end_token(source: Source, args: Any, tokenizer: Any) -> None:
    """Raise :class:`ModelError` where rows of plain text cannot be ended, since the tokenizer has no token for it."""
    answers = {"completion", "chosen", "text"} & set(source.format.fields)
    if (
        answers
        and not source.format.conversational
        and not (tokenizer.eos_token or getattr(args, "eos_token", None))
    ):
        raise ModelError(
            "The tokenizer has no end token (eos_token), so that the model could not learn to stop. Set it in "
            f"tokenizer_config.json, or train on conversations. Tokenizer: {tokenizer.name_or_path}."
        )


@contextmanager
def naming_refused_rows(tokenizer: Any, *sources: Source | None) -> Iterator[None]:
    """Within it, an error that the chat template raises at a row becomes a :class:`DataError` that names the row.

    Args:
        tokenizer: The tokenizer.
        sources: The rows that are rendered.
    """
    from jinja2 import TemplateError

    try:
        yield
    except (TemplateError, TypeError, KeyError, AttributeError, ValueError) as error:
        if not _may_come_from_a_template(error):
            raise
        for source in filter(None, sources):
            for number, row in enumerate(source.read(), start=1):
                if refused := refusal(tokenizer, row, source.format):
                    raise _refused(number, refused, source) from error
        if isinstance(error, TemplateError):
            raise DataError(
                f"A chat template refuses rows, though not that of the model that is trained: {error}. It is a reward model's "
                "or a teacher's: correct the rows, or use another model."
            ) from error
        raise
    except RuntimeError as error:
        if "assistant_only_loss" not in str(error):
            raise
        raise DataError(
            "assistant_only_loss finds no answer in at least one row. Its chat template marks none, or max_length cuts "
            f"it off. Leave assistant_only_loss out, or give rows of prompt and completion. ({error})"
        ) from error


def _may_come_from_a_template(error: Exception) -> bool:
    """Whether an error was raised where rows are rendered; of another process that cannot be told."""
    frames = {frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__)}
    elsewhere = type(error.__cause__).__name__ == "RemoteTraceback"
    return elsewhere or bool(frames & {"apply_chat_template", "_tokenize", "tokenize_fn"})


def _refused(number: int, refused: str, source: Source) -> DataError:
    return DataError(
        f"Row {number}: {refused}. Correct the row, use another chat template, or let validate_dataset set such rows aside "
        f"(base_model). Dataset: {source.name}."
    )


def row_findings(
    trainer: Any, args: Any, source: Source, *, learns_text: bool, columns: Sequence[str] | None
) -> list[str]:
    """What there is to say of rows as the model gets to see them. Of many rows, some are looked at.

    Args:
        trainer: The trainer, which has tokenised its rows.
        args: Its arguments.
        source: The rows as they came.
        learns_text: Whether the model learns to write what is in the rows.
        columns: Columns that the trainer reads; None where it hands all to reward functions.

    Raises:
        DataError: The chat template refuses a row; names it.
    """
    findings: list[str | None] = []
    if source.format.conversational:
        rows = _sample(source)
        unread = [
            name
            for name in _TEMPLATE_COLUMNS
            if name not in (columns or ()) and any(row.get(name) for _, row in rows)
        ]
        if unread:
            findings.append(
                f"{' and '.join(unread)} of the rows are not read: {type(trainer).__name__} renders all prompts alike. Set "
                "chat_template_kwargs in training_args, where it has them."
            )
        seen = [(n, {name: value for name, value in row.items() if name not in unread}) for n, row in rows]
        findings.append(_loss_of_text(trainer, args, source, seen))
    if learns_text:
        findings += [_never_ending(trainer, args), _questions_trained_on(trainer, args, source)]
    return [finding for finding in findings if finding]


def _loss_of_text(
    trainer: Any, args: Any, source: Source, rows: Sequence[tuple[int, dict[str, Any]]]
) -> str | None:
    tokenizer = trainer.processing_class
    template = getattr(trainer, "chat_template", None)
    for number, row in rows:
        if refused := refusal(tokenizer, row, source.format, template):
            raise _refused(number, refused, source)
    found = losses(tokenizer, ((f"row {n}", row) for n, row in rows), source.format, template)
    takes_path = hasattr(args, "chat_template_path")
    remedy = (
        "set training_args={'chat_template_path': ...}"
        if takes_path
        else "use a model with another chat template"
    )
    return loss_finding(found, len(rows), remedy)


def _sample(source: Source) -> list[tuple[int, dict[str, Any]]]:
    """Rows with their numbers; of many, some from all over the dataset, of streamed ones the first."""
    if source.rows is None:
        return list(enumerate(islice(source.read(), _STREAMED_ROWS), start=1))
    step = -(-len(source.rows) // _RENDERED_ROWS)
    return list(enumerate(source.rows, start=1))[::step]


def _never_ending(trainer: Any, args: Any) -> str | None:
    tokenizer = trainer.processing_class
    ends = _end_tokens(trainer, tokenizer)
    # A row that was cut has lost its end for another reason, of which there is a finding of its own.
    limit = getattr(args, "max_length", None)
    learned = [
        ids for ids, length in _learned(trainer.train_dataset) if ids and (limit is None or length < limit)
    ]
    last = Counter(token for ids in learned if (token := _last_token(tokenizer, ids)) not in ends)
    if not last:
        return None
    token = tokenizer.convert_ids_to_tokens(last.most_common(1)[0][0])
    finding = (
        f"{sum(last.values())} of {len(learned)} texts looked at do not end in a token that ends generation, so that the "
        f"model never learns to stop: they end in {token!r}, and generation ends at "
        f"{', '.join(map(repr, tokenizer.convert_ids_to_tokens(sorted(ends)))) or 'no token'}. Use a chat template that "
        "writes such a token after each answer"
    )
    if token in tokenizer.get_added_vocab() and hasattr(args, "eos_token"):
        finding += f", or set training_args={{'eos_token': {token!r}}}"
    return finding + "."


def _end_tokens(trainer: Any, tokenizer: Any) -> set[int]:
    own = getattr(getattr(trainer.model, "generation_config", None), "eos_token_id", None)
    return {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}


def _learned(dataset: Any) -> Iterator[tuple[list[int], int]]:
    """The tokens that are learned from of some rows, without what is masked, and how long the whole row is."""
    if hasattr(dataset, "select"):
        step = -(-len(dataset) // _LEARNED_ROWS) or 1
        dataset = dataset.select(range(0, len(dataset), step))
    for row in islice(dataset, _LEARNED_ROWS):
        prompt = len(row.get("prompt_ids") or ())
        for name in _LEARNED:
            if row.get(name) is None:
                continue
            start = 0
            for length in row.get("seq_lengths") or [len(row[name])]:  # packed rows hold several
                ids = row[name][start : start + length]
                yield [token for token in ids if token != _IGNORED], prompt + len(ids)
                start += length


def _last_token(tokenizer: Any, ids: Sequence[int]) -> int:
    """The last token that is not white space, which many templates write after the end of a turn."""
    for token in reversed(ids):
        if tokenizer.decode([token]).strip():
            return token
    return ids[-1]


def _questions_trained_on(trainer: Any, args: Any, source: Source) -> str | None:
    if source.format.fields != ("messages",) or getattr(args, "assistant_only_loss", False):
        return None
    from trl.chat_template_utils import get_training_chat_template

    finding = "The loss counts whole conversations, questions too, since the rows have messages. To learn answers only, "
    try:
        get_training_chat_template(trainer.processing_class)
    except Exception:  # TRL tries the template on conversations of its own, at which it may raise anything
        return finding + "give rows of prompt and completion: the chat template does not mark answers."
    return finding + "set training_args={'assistant_only_loss': True}, or give rows of prompt and completion."
