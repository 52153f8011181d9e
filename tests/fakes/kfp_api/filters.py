"""List requests: filter, order, pages.

Upstream: ``filter/filter.go``, ``list/list.go`` and ``server/list_request_util.go``, and for the names of the
fields ``APIToModelFieldMap`` of each model.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote_plus

from .errors import ApiError, gateway_error, invalid, invalid_details, unknown_version
from .messages import timestamp

_BASE64 = frozenset(string.ascii_letters + string.digits + "+/=")
_FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")
DEFAULT_PAGE_SIZE = 20
OPERATIONS = {
    "EQUALS": "EQ",
    "NOT_EQUALS": "NEQ",
    "GREATER_THAN": "GT",
    "GREATER_THAN_EQUALS": "GTE",
    "LESS_THAN": "LT",
    "LESS_THAN_EQUALS": "LTE",
    "IN": "IN",
    "IS_SUBSTRING": "SUBSTRING",
}
_NUMBERED = ["OPERATION_UNSPECIFIED", *OPERATIONS]
_GO_TYPES = {"int_values": "[]int32", "long_values": "[]int64", "string_values": "[]string"}
_GO_SCALARS = {
    "int_value": "int32",
    "long_value": "int64",
    "string_value": "string",
    "timestamp_value": "int64",
}

# Operation of the Go struct, then column, then the values, which must all hold.
Filter = dict[str, dict[str, list[Any]]]


@dataclass(frozen=True)
class Listable:
    """What can be listed: the names of its fields in requests, and the attributes of its rows behind them."""

    name: str
    columns: Mapping[str, str]  # name in a request -> column
    attributes: Mapping[str, str]  # column -> attribute of a row
    prefix: str = ""
    unsortable: frozenset[str] = frozenset()


@dataclass
class Options:
    """A list request after validation."""

    listable: Listable
    page_size: int
    sort: str
    descending: bool
    filter: Filter | None
    start: tuple[Any, str] | None = None

    def page(self, rows: Iterable[Any]) -> tuple[list[Any], int, str]:
        """The rows of the page, the number of all that match, the token of the next page."""
        column = self.listable.attributes[self.sort]
        key_column = self.listable.attributes["UUID"]

        def key(row: Any) -> tuple[Any, str]:
            return _ordered(getattr(row, column)), getattr(row, key_column)

        matching = [row for row in rows if self.matches(row)]
        total = len(matching)
        matching.sort(key=key, reverse=self.descending)
        if self.start is not None:
            # The cursor is a value, not a position: what was added or changed before it is not seen on this walk.
            start = (_ordered(self._like(self.start[0])), self.start[1])
            if self.descending:
                matching = [row for row in matching if key(row) <= start]
            else:
                matching = [row for row in matching if key(row) >= start]
        page, rest = matching[: self.page_size], matching[self.page_size :]
        return page, total, self._token(rest[0]) if rest else ""

    def matches(self, row: Any) -> bool:
        for operation, columns in (self.filter or {}).items():
            test = _TESTS[operation]
            for column, values in columns.items():
                actual = getattr(row, self.listable.attributes[column])
                if not all(test(actual, value) for value in values):
                    return False
        return True

    def _like(self, value: Any) -> Any:
        return int(value) if isinstance(value, float) else value

    def _token(self, row: Any) -> str:
        if self.sort in self.listable.unsortable:
            raise invalid(f'cannot sort by field "{self.sort}" on type "{self.listable.name}"')
        prefixed = {
            operation: {self.listable.prefix + column: values for column, values in columns.items()}
            for operation, columns in (self.filter or {}).items()
        }
        token = {
            "SortByFieldName": self.sort,
            "SortBySQLColumn": self.sort,
            "SortByFieldValue": getattr(row, self.listable.attributes[self.sort]),
            "SortByFieldPrefix": self.listable.prefix,
            "KeyFieldName": "UUID",
            "KeyFieldValue": getattr(row, self.listable.attributes["UUID"]),
            "KeyFieldPrefix": self.listable.prefix,
            "IsDesc": self.descending,
            "ModelName": self.listable.prefix.rstrip("."),
            "Filter": prefixed or None,
        }
        return base64.b64encode(json.dumps(token, separators=(",", ":")).encode()).decode()


def options(listable: Listable, query: Mapping[str, str], page_limit: int) -> Options:
    """``validatedListOptions`` of upstream.

    A token carries the filter and the order of the first page. Given again they must equal those in the token,
    which they cannot when the filter holds a number, a time or a list: the token went through JSON, so Go's
    ``reflect.DeepEqual`` compares ``int64`` with ``float64`` and ``[]string`` with ``[]interface{}``.
    """
    size = _page_size(query.get("page_size", ""), page_limit)
    token = query.get("page_token", "")
    sort_by, spec = query.get("sort_by", ""), query.get("filter", "")
    if not token:
        return _fresh(listable, size, sort_by, spec)
    resumed = _resumed(listable, size, token)
    if sort_by or spec:
        fresh = _fresh(listable, size, sort_by, spec)
        same = fresh.sort == resumed.sort and fresh.descending == resumed.descending
        if not same or not _deep_equal(resumed.filter, fresh.filter):
            raise invalid(
                "page token does not match the supplied sort by and/or filtering criteria. Either specify the same "
                "criteria or leave the latter empty if page token is specified"
            )
    return resumed


def parse_filter(spec: str) -> list[tuple[str, str, Any]]:
    """The predicates of a filter: operation, key, value.

    Upstream decodes the parameter as a URL a second time, after the gateway has: a plus sign becomes a
    space, so ``+00:00`` in a time is refused and ``Z`` is not, and a percent sign has to be encoded twice.
    """
    if not spec:
        return []
    shown = json.dumps(spec, ensure_ascii=False)
    if escape := re.search(r"%(?![0-9a-fA-F]{2}).{0,2}", spec):
        raise invalid(
            f"failed to parse valid filter from {shown}: invalid URL escape {json.dumps(escape[0])}"
        )
    decoded = unquote_plus(spec)
    try:
        try:
            document = json.loads(decoded)
        except ValueError:
            raise ValueError(f"proto: syntax error (line 1:1): invalid value {decoded}") from None
        if not isinstance(document, dict) or set(document) - {"predicates"}:
            raise ValueError("proto: unknown field or syntax error")
        predicates = [_predicate(item) for item in document.get("predicates") or []]
    except (ValueError, TypeError) as error:
        raise invalid(f"failed to parse valid filter from {shown}: {error}") from error
    except ApiError as error:
        # A time that does not parse.
        if error.external is None:
            raise invalid(f"failed to parse valid filter from {shown}: {error.message}") from error
        raise
    return [_checked(*predicate) for predicate in predicates]


def split_tags(spec: str) -> tuple[list[tuple[str, str, Any]], dict[str, str]]:
    """The other predicates, and the tags asked for (``extractTagFiltersFromFilterSpec``)."""
    rest, tags = [], {}
    for operation, key, value in parse_filter(spec):
        if not key.startswith("tags."):
            rest.append((operation, key, value))
            continue
        if operation != "EQUALS":
            raise invalid(
                f'only EQUALS operation is supported for tag filtering, got {operation} for key "{key}"'
            )
        if not isinstance(value, str):
            raise invalid(f'tag filter value must be a string for key "{key}"')
        tags[key.removeprefix("tags.")] = value
    return rest, tags


def _fresh(listable: Listable, size: int, sort_by: str, spec: str) -> Options:
    predicates = split_tags(spec)[0] if listable.prefix.startswith("pipeline") else parse_filter(spec)
    words = sort_by.lower().split()
    if len(words) > 2 or (len(words) == 2 and words[1] not in ("asc", "desc")):
        raise invalid(
            f'Received invalid sort by format "{sort_by}". Supported format: "field_name", "field_name desc", or '
            '"field_name asc"'
        )
    sort = "CreatedAtInSec"
    if words:
        if words[0].startswith("metric:"):
            # Metrics were columns of the first version; there is no page to go on to.
            metric = words[0].removeprefix("metric:")
            listable = replace(
                listable,
                columns={**listable.columns, words[0]: metric},
                attributes={**listable.attributes, metric: "blank"},
                unsortable=listable.unsortable | {metric},
            )
        if words[0] not in listable.columns:
            raise invalid(f'Invalid sorting field: "{words[0]}" on listable type {listable.name}')
        sort = listable.columns[words[0]]
    result: Filter = {}
    for operation, key, value in predicates:
        if key not in listable.columns:
            raise invalid(f'no support for filtering on unrecognized field "{key}"')
        columns = result.setdefault(OPERATIONS[operation], {})
        columns.setdefault(listable.columns[key], []).append(value)
    return Options(listable, size, sort, words[1:] == ["desc"], result or None)


def _resumed(listable: Listable, size: int, token: str) -> Options:
    try:
        fields = json.loads(base64.b64decode(token, validate=True))
        stored: Filter | None = None
        if fields["Filter"]:
            stored = {
                operation: {
                    column.removeprefix(listable.prefix): values for column, values in columns.items()
                }
                for operation, columns in fields["Filter"].items()
            }
        if not _FIELD_NAME.fullmatch(fields["SortByFieldName"]):
            raise invalid(
                f'Invalid sort field name: "{fields["SortByFieldName"]}". Field names must start with a letter and contain only letters, '
                "numbers, and underscores (max 128 characters)"
            )
        start = (fields["SortByFieldValue"], fields["KeyFieldValue"])
        return Options(listable, size, fields["SortByFieldName"], fields["IsDesc"], stored, start)
    except binascii.Error as error:
        at = next((n for n, character in enumerate(token) if character not in _BASE64), len(token))
        raise invalid_details(f"illegal base64 data at input byte {at}", "Invalid page token") from error
    except (ValueError, KeyError, TypeError) as error:
        raise invalid_details(str(error), "Invalid page token") from error


def _page_size(text: str, limit: int) -> int:
    try:
        size = int(text or 0)
    except ValueError as error:
        message = f'parsing field "page_size": strconv.ParseInt: parsing "{text}": invalid syntax'
        raise gateway_error(3, message) from error
    if size < 0:
        raise invalid(f"The page size should be greater than 0. Got {size}")
    return min(size or DEFAULT_PAGE_SIZE, limit)


def _predicate(item: Any) -> tuple[str, str, str, Any]:
    """Operation, key, kind of value, value."""
    if not isinstance(item, dict):
        raise ValueError("proto: syntax error: unexpected token")
    operation, key, found = "OPERATION_UNSPECIFIED", "", None
    for name, value in item.items():
        snake = re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name)
        if snake == "operation":
            operation = _NUMBERED[value] if isinstance(value, int) and 0 <= value < len(_NUMBERED) else value
            if operation not in _NUMBERED:
                raise ValueError(f"proto: invalid value for enum field operation: {value!r}")
        elif snake == "key":
            key = value
        elif snake in _GO_SCALARS or snake in _GO_TYPES:
            if found is not None:
                raise ValueError(f"proto: oneof {name} is already set")
            found = (snake, _typed(snake, value))
        else:
            raise ValueError(f'proto: unknown field "{name}"')
    kind, value = found or ("", None)
    return operation, key, kind, value


def _typed(kind: str, value: Any) -> Any:
    if kind == "timestamp_value":
        return timestamp(value)
    if kind in _GO_TYPES:
        scalar = kind.removesuffix("s")
        return [_typed(scalar, item) for item in value.get("values", [])]
    if kind == "string_value":
        if not isinstance(value, str):
            raise ValueError(f"proto: invalid value for string field {kind}: {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"proto: invalid value for {kind} field: {value!r}")
    return int(value)


def _checked(operation: str, key: str, kind: str, value: Any) -> tuple[str, str, Any]:
    """``toPredicate`` and ``checkPredicate``."""
    if operation == "OPERATION_UNSPECIFIED":
        raise unknown_version("Error using Filter.Predicate.Operation with go_client.Predicate_Operation")
    if not kind:
        raise unknown_version("Error using Filter.Predicate.Value with <nil>")
    if not key:
        raise invalid(f"Predicate key cannot be empty for operation {operation} and value {value}")
    if operation == "IN" and kind in _GO_SCALARS:
        raise invalid(f"cannot use IN operator with scalar type {_GO_SCALARS[kind]}")
    if operation == "IS_SUBSTRING" and kind != "string_value":
        raise invalid(f"cannot use non string value type string with operator {value}")
    if operation not in ("IN", "IS_SUBSTRING") and kind in _GO_TYPES:
        raise invalid(f"cannot use scalar operator {operation} on array type {_GO_TYPES[kind]}")
    return operation, key, value


def _deep_equal(stored: Filter | None, given: Filter | None) -> bool:
    def all_strings(filter_: Filter) -> bool:
        return all(
            isinstance(value, str)
            for columns in filter_.values()
            for values in columns.values()
            for value in values
        )

    if stored is None or given is None:
        return stored is None and given is None
    return stored == given and all_strings(given)


def _compare(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """MySQL compares a number with a string by the number that the string starts with."""

    def compare(actual: Any, value: Any) -> bool:
        if isinstance(actual, str) and isinstance(value, str):
            return test(collated(actual), collated(value))
        if isinstance(actual, str) == isinstance(value, str):
            return test(actual, value)
        return test(_number(actual), _number(value))

    return compare


def collated(text: str, *, ends: bool = False) -> str:
    """What the default collations of MariaDB and MySQL compare: no case, no accents, no spaces at the end.

    :param ends: spaces at the end count, as in patterns.
    """
    decomposed = unicodedata.normalize("NFKD", (text if ends else text.rstrip(" ")).casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _ordered(value: Any) -> Any:
    """What is sorted by: of text the capitals, so that ``_`` comes behind the letters."""
    return collated(value).upper() if isinstance(value, str) else value


def _number(value: Any) -> float:
    if not isinstance(value, str):
        return float(value)
    match = re.match(r"\s*-?\d+(\.\d+)?", value)
    return float(match[0]) if match else 0.0


def _like(actual: Any, value: str) -> bool:
    """``LIKE '%value%'``: the value is not escaped, so ``%`` and ``_`` are wildcards, and a backslash takes the next one as it is."""
    wildcards = {"%": ".*", "_": "."}
    tokens = re.findall(r"\\.|.", f"%{collated(value, ends=True)}%", re.DOTALL)
    pattern = "".join(wildcards.get(token) or re.escape(token[-1]) for token in tokens)
    return re.fullmatch(pattern, collated(str(actual), ends=True), re.DOTALL) is not None


_equal = _compare(lambda actual, value: actual == value)
_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "EQ": _equal,
    "NEQ": lambda actual, value: not _equal(actual, value),
    "GT": _compare(lambda actual, value: actual > value),
    "GTE": _compare(lambda actual, value: actual >= value),
    "LT": _compare(lambda actual, value: actual < value),
    "LTE": _compare(lambda actual, value: actual <= value),
    "IN": lambda actual, values: any(_equal(actual, value) for value in values),
    "SUBSTRING": _like,
}
