"""Assets: what others see in Airflow's graph, and schedule their DAGs on.

Their addresses are ``llmops://dataset/chats``, ``llmops://model/assistant``, ``llmops://evaluation/assistant``,
``llmops://service/default/assistant`` and ``llmops://drift/chats``, and Airflow shows what follows ``llmops://``. Airflow asks
:func:`sanitize_uri` of every such address, so that a misspelt kind is an import error of the DAG, and not an asset that nobody tells.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import Asset

from airflow_provider_llmops.exceptions import ConfigurationError, shown_value
from airflow_provider_llmops.uris import names_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from urllib.parse import SplitResult

    from airflow.sdk import Context

__all__ = [
    "dataset_asset",
    "drift_asset",
    "evaluation_asset",
    "is_of_the_kind_of",
    "model_asset",
    "of_this_run",
    "only_of",
    "sanitize_uri",
    "service_asset",
]

_SCHEME = "llmops"
_NAMES = {
    "dataset": ("name",),
    "drift": ("name",),
    "evaluation": ("name",),
    "model": ("name",),
    "service": ("namespace", "name"),
}
_UNSEEN = re.compile(r"[\x00-\x1f\x7f]")


def dataset_asset(name: str) -> Asset:
    """A data set, of which a version was published: ``llmops://dataset/NAME``.

    :param name: as in its catalog
    :raises ConfigurationError: that is no name
    """
    return _asset("dataset", name)


def model_asset(name: str) -> Asset:
    """A registered model, of which there is a new version: ``llmops://model/NAME``.

    :param name: in the model registry
    :raises ConfigurationError: that is no name
    """
    return _asset("model", name)


def evaluation_asset(name: str) -> Asset:
    """Evaluations of a model or service: ``llmops://evaluation/NAME``.

    :param name: of what is evaluated
    :raises ConfigurationError: that is no name
    """
    return _asset("evaluation", name)


def service_asset(name: str, namespace: str = "default") -> Asset:
    """A service, of which another revision has the requests: ``llmops://service/NAMESPACE/NAME``.

    :param name: of the service
    :param namespace: Kubernetes namespace
    :raises ConfigurationError: those are no names
    """
    return _asset("service", namespace, name)


def drift_asset(name: str) -> Asset:
    """What is told where rows have drifted, and only then: ``llmops://drift/NAME``.

    :param name: of the data set
    :raises ConfigurationError: that is no name
    """
    return _asset("drift", name)


def of_this_run(asset: Callable[[str], Asset], param: str) -> Callable[[Context], None]:
    """A hook for ``pre_execute``: the task tells of what the run's parameter names, and not of what its outlets name.

    For tasks that do not know that name themselves; the operators that register, publish and deploy do.

    :param asset: makes the asset by name, such as :func:`evaluation_asset`
    :param param: the parameter
    """

    def rename(context: Context) -> None:
        task = context["task"]
        task.outlets = only_of(asset(context["params"][param]), task.outlets)

    return rename


def only_of(asset: Asset, outlets: Sequence[Any]) -> list[Any]:
    """The outlets, of which those of the asset's kind have become the asset.

    :param asset: what there is to tell of
    :param outlets: of a task, which has named them before it knew that
    """
    kept = [each for each in outlets if not is_of_the_kind_of(asset, each)]
    return [*kept, asset] if len(kept) < len(outlets) else kept


def is_of_the_kind_of(asset: Asset, outlet: Any) -> bool:
    """Whether an outlet is an asset of the same kind, whatever its name.

    :param asset: an asset with an address of ours
    :param outlet: of a task
    """
    return isinstance(outlet, Asset) and outlet.uri.startswith(f"{_SCHEME}://{asset.group}/")


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """The address as it is kept, whoever has written it; Airflow calls it for each address that begins with ``llmops://``.

    :param uri: the address in its parts
    :raises ValueError: it is no address of an asset, and which part of it is not
    """
    kind = uri.netloc.lower()
    address = f"{_SCHEME}://{uri.netloc}{uri.path}"
    if kind not in _NAMES:
        raise ValueError(
            f"The kind of an {_SCHEME}:// asset is one of {', '.join(_NAMES)}, and {shown_value(uri.netloc, 60)} is none. "
            f"The address is {shown_value(address, 200)}."
        )
    if uri.query:
        raise ValueError(
            f"The query of an {_SCHEME}:// asset is no part of its name. Leave it out: {shown_value(address, 200)}."
        )
    names = names_in(uri.path)
    if fault := _fault(kind, names):
        raise ValueError(f"{fault} The address is {shown_value(address, 200)}.")
    return uri._replace(netloc=kind, path=_path(names))


def _asset(kind: str, *names: str) -> Asset:
    if fault := _fault(kind, names):
        raise ConfigurationError(fault)
    return Asset(name="/".join((kind, *names)), uri=f"{_SCHEME}://{kind}{_path(names)}", group=kind)


def _path(names: list[str] | tuple[str, ...]) -> str:
    return "".join(f"/{quote(name, safe='')}" for name in names)


def _fault(kind: str, names: list[str] | tuple[str, ...]) -> str | None:
    """What is wrong with the names of an asset; None where nothing is."""
    expected = _NAMES[kind]
    form = f"{_SCHEME}://{kind}/{'/'.join(each.upper() for each in expected)}"
    if len(names) != len(expected):
        return f"The asset of a {kind} is written as {form}; a / within a name as %2F."
    for part, name in zip(expected, names, strict=True):
        if not isinstance(name, str) or not name.strip():
            return f"The {part} of the {kind} is missing in an asset: {form}. Give a text that is not empty."
        if name != name.strip() or _UNSEEN.search(name):
            return f"The {part} of the {kind} has blanks at an end, or characters that nobody sees: {shown_value(name, 100)}."
    return None
