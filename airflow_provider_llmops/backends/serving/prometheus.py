"""What a revision has answered, asked of a Prometheus server: https://prometheus.io/docs/prometheus/latest/querying/api/."""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from airflow_provider_llmops.backends.serving.base import Answers
from airflow_provider_llmops.backends.serving.counters import BEGAN, OURS, VLLM, Counters, answers_of
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, shown_value
from airflow_provider_llmops.http import request
from airflow_provider_llmops.json_text import parse_json

__all__ = ["PrometheusServer", "check_labels"]

ANSWER_TIMEOUT_SECONDS = 30.0
_MATCHER = r'\s*(?!__name__\b)[a-zA-Z_][a-zA-Z0-9_]*\s*(?:=~|!~|!=|=)\s*"(?:[^"\\\n]|\\.)*"\s*'
_MATCHERS = re.compile(rf"{_MATCHER}(?:,{_MATCHER})*,?\s*")
# What a counter has grown by. Of a series that first appears within the window Prometheus' increase() does not count where it began, which
# is 0 if its process was seen before, or was started since: then all of it counts.
_GROWN = "sum by ({by}) (((({new}) > {increase}) or {increase}) or ({new}))"  # {increase} is missing where it was seen once
_NEW = (
    "({series} unless {series} offset {window}) and ignoring ({labels}) "
    "(({began} offset {window}) or ({began} >= (time() - {seconds})))"
)


@dataclass(frozen=True)
class PrometheusServer:
    """A Prometheus server, or another one that speaks its API.

    :param address: its address, without a slash at its end
    :param token: sent as a bearer token
    :param login: user and password, sent by HTTP's basic scheme
    :param context: how the certificate of an https address is verified
    """

    address: str
    token: str | None = field(default=None, repr=False)
    login: tuple[str, str] | None = field(default=None, repr=False)
    context: ssl.SSLContext | None = None

    def query(self, expression: str, at: float) -> list[tuple[dict[str, str], float]]:
        """The vector that an expression gives: labels and value of each series.

        :param expression: in PromQL
        :param at: Unix time that it is asked for
        :raises ConfigurationError: the server refuses the expression or the credentials
        :raises ApiUnavailableError: the server cannot be reached, or answers in part
        """
        asked = urlencode({"query": expression, "time": f"{at:.3f}"})
        answer = self._get(f"/api/v1/query?{asked}")
        if warnings := answer.get("warnings"):
            raise ApiUnavailableError(
                f"Prometheus answered with a warning, so perhaps in part: {shown_value(warnings, 300)}",
                f"Query: {expression}",
            )
        try:
            if answer["data"]["resultType"] != "vector":
                raise ValueError(answer["data"]["resultType"])
            return [(dict(each["metric"]), float(each["value"][1])) for each in answer["data"]["result"]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ApiUnavailableError(
                f"What answers is no Prometheus, or the expression gives no vector: {shown_value(answer, 200)}",
                f"Address: {self.address}",
                f"Query: {expression}",
            ) from error

    def answers(self, labels: str, window: int, at: float) -> Answers | None:
        """What servers have answered in a window; ``None`` where Prometheus has nothing of them that says so.

        :param labels: of their series, as PromQL has them between braces, see :func:`check_labels`
        :param window: its seconds
        :param at: Unix time of its end
        """
        labels = check_labels(labels)
        for server in (OURS, VLLM):
            post = ', method="POST"' if server.method else ""
            codes = self._grown(
                f"{server.requests}{{{labels}{post}}}", server.code, server, labels, window, at
            )
            buckets = self._grown(
                f'{{__name__="{server.buckets}", {labels}}}', "le", server, labels, window, at
            )
            # Nobody has asked vLLM's server yet where it has buckets alone.
            if not buckets or (not codes and not server.method):
                continue
            try:
                return answers_of(codes, {float(le): count for le, count in buckets.items()}, at - window)
            except ValueError as error:
                raise ApiUnavailableError(
                    f"Prometheus answers with what counts nothing: {error}. Are all series of {labels} of one kind of server?",
                    f"Address: {self.address}",
                ) from error
        return None

    def check(self) -> str:
        """Say in one line what was reached; raises if it cannot be used."""
        self.query("vector(1)", 0.0)
        return f"Prometheus at {self.address} answers queries"

    def _grown(
        self, series: str, by: str, server: Counters, labels: str, window: int, at: float
    ) -> Mapping[str, float]:
        parts = {"series": series, "window": f"{window}s", "seconds": window, "began": f"{BEGAN}{{{labels}}}"}
        new = _NEW.format(**parts, labels=", ".join(server.labels))
        increase = f"increase({series}[{window}s])"
        found = self.query(_GROWN.format(by=by, new=new, increase=increase), at)
        return {each[by]: count for each, count in found if by in each and not math.isnan(count)}

    def _get(self, path: str) -> dict[str, Any]:
        content = request(
            f"{self.address}{path}",
            timeout=ANSWER_TIMEOUT_SECONDS,
            api_key=self.token,
            login=self.login,
            context=self.context,
        )
        try:
            answer = parse_json(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or answer.get("status") != "success":
            raise ApiUnavailableError(
                f"What answers is no Prometheus: {shown_value(content, 200)}", f"Address: {self.address}"
            )
        return answer


def check_labels(labels: object) -> str:
    """Labels of series, as PromQL has them between braces: ``namespace="team", pod=~"chat-predictor-.*"``.

    :param labels: what was given as such
    :raises ConfigurationError: they are no such labels
    """
    if not isinstance(labels, str) or not _MATCHERS.fullmatch(labels):
        raise ConfigurationError(
            f"""Labels of series are written as PromQL has them between braces, namespace="team", pod=~"chat-predictor-.*", without """
            f"__name__. Got {shown_value(labels, 200)}."
        )
    return labels.strip().rstrip(",")
