"""How answers are written in OpenAI's API, whole and as the pieces of a stream: chat completions and completions.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from typing import Any, ClassVar

from llmops_components.serving.predictor import logprobs
from llmops_components.serving.predictor.generation import Piece
from llmops_components.serving.predictor.logprobs import TokenScore, TokenTexts
from llmops_components.serving.predictor.tools import Call, CallReader, ToolFormat


class Form:
    """How the answer to one request is written; its choices are told apart by their index.

    Args:
        model: Name of the model.
        texts: What tokens stand for; None where no log probabilities are asked for.
    """

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, model: str, texts: TokenTexts | None = None) -> None:
        self._model = model
        self._id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._texts = texts

    def body(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A whole answer.

        Args:
            choices: Its choices.
            more: Further fields.
        """
        return self._body(self.kind, choices, more)

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A piece of a stream.

        Args:
            choices: What it says of choices.
            more: Further fields.
        """
        return self._body(self.chunk_kind, choices, more)

    def whole(self, index: int, answer: Piece, finish_reason: str) -> dict[str, Any]:
        """A choice of a whole answer.

        Args:
            index: Which.
            answer: What was answered.
            finish_reason: Why it ended.
        """
        raise NotImplementedError

    def begin(self, index: int) -> list[dict[str, Any]]:
        """What a stream says of a choice before its text.

        Args:
            index: Which.
        """
        raise NotImplementedError

    def go_on(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """What a stream says of a choice when more of it is there.

        Args:
            index: Which.
            piece: What is there.
        """
        raise NotImplementedError

    def end(self, index: int, finish_reason: str) -> list[dict[str, Any]]:
        """What a stream says of a choice at its end.

        Args:
            index: Which.
            finish_reason: Why it ended.
        """
        raise NotImplementedError

    def _body(self, kind: str, choices: list[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
        head = {"id": self._id, "object": kind, "created": int(time.time()), "model": self._model}
        return head | {"choices": choices} | more


class TextForm(Form):
    """Completions."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def whole(self, index: int, answer: Piece, finish_reason: str) -> dict[str, Any]:
        return self._choice(index, answer, finish_reason)

    def begin(self, index: int) -> list[dict[str, Any]]:
        return []

    def go_on(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        return [self._choice(index, piece, None)]

    def end(self, index: int, finish_reason: str) -> list[dict[str, Any]]:
        return [self._choice(index, Piece("", []), finish_reason)]

    def _choice(self, index: int, piece: Piece, finish_reason: str | None) -> dict[str, Any]:
        is_asked = self._texts is not None and (piece.scores or piece.text)
        scores = logprobs.of_text(piece.scores, self._texts) if is_asked and self._texts else None
        return {"index": index, "text": piece.text, "logprobs": scores, "finish_reason": finish_reason}


class ChatForm(Form):
    """Chat completions. Calls of tools are told from the text where the request has tools."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(self, model: str, texts: TokenTexts | None = None) -> None:
        super().__init__(model, texts)
        self.tool_format: ToolFormat | None = None
        self._names: list[str] = []
        self._takes_several = True
        self._readers: dict[int, CallReader] = {}
        self._calls: dict[int, int] = defaultdict(int)
        self._scores: dict[int, list[TokenScore]] = defaultdict(list)  # of text that is held back

    def expect_calls(self, tool_format: ToolFormat, names: list[str], *, several: bool) -> None:
        """Have calls of tools told from text.

        Args:
            tool_format: How the model writes calls.
            names: Names of the functions that there are.
            several: Whether an answer may have several calls; all but the first are dropped otherwise.
        """
        self.tool_format, self._names, self._takes_several = tool_format, names, several

    def whole(self, index: int, answer: Piece, finish_reason: str) -> dict[str, Any]:
        text, calls = answer.text, []
        if self.tool_format is not None:
            reader = CallReader(self.tool_format, self._names, several=self._takes_several)
            (text, calls), (rest, more) = reader.read(answer.text), reader.finish()
            text, calls = text + rest, calls + more
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message |= {"content": text or None, "tool_calls": [call.written() for call in calls]}
        return self._choice(index, {"message": message}, answer.scores, _reason(finish_reason, len(calls)))

    def begin(self, index: int) -> list[dict[str, Any]]:
        if self.tool_format is not None:
            self._readers[index] = CallReader(self.tool_format, self._names, several=self._takes_several)
        return [self._delta(index, {"role": "assistant", "content": ""})]

    def go_on(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        reader = self._readers.get(index)
        text, calls = (piece.text, []) if reader is None else reader.read(piece.text)
        self._scores[index] += piece.scores
        if reader is not None and not text and not calls:
            return []
        return self._deltas(index, text, calls)

    def end(self, index: int, finish_reason: str) -> list[dict[str, Any]]:
        reader = self._readers.get(index)
        text, calls = ("", []) if reader is None else reader.finish()
        said = self._deltas(index, text, calls) if text or calls or self._scores[index] else []
        reason = _reason(finish_reason, self._calls[index])
        return [*said, self._delta(index, {}, finish_reason=reason)]

    def _deltas(self, index: int, text: str, calls: list[Call]) -> list[dict[str, Any]]:
        """Deltas of text and of calls, each of which comes in one piece; the first one has the log probabilities."""
        contents: list[dict[str, Any]] = [{"content": text}] if text or not calls else []
        for call in calls:
            contents.append({"tool_calls": [{"index": self._calls[index], **call.written()}]})
            self._calls[index] += 1
        scores, self._scores[index] = self._scores[index], []
        first, *others = contents
        return [self._delta(index, first, scores), *(self._delta(index, each) for each in others)]

    def _delta(
        self,
        index: int,
        delta: dict[str, Any],
        scores: list[TokenScore] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        return self._choice(index, {"delta": delta}, scores, finish_reason)

    def _choice(
        self,
        index: int,
        content: dict[str, Any],
        scores: list[TokenScore] | None,
        finish_reason: str | None,
    ) -> dict[str, Any]:
        is_asked = self._texts is not None and scores is not None
        written = (
            logprobs.of_chat(scores, self._texts) if is_asked and self._texts and scores is not None else None
        )
        return {"index": index, **content, "logprobs": written, "finish_reason": finish_reason}


def _reason(finish_reason: str, calls: int) -> str:
    return "tool_calls" if calls and finish_reason == "stop" else finish_reason
