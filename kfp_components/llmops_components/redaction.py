"""Keep secrets out of everything that is written or said: messages, logs, results, tracking, model cards.

The one place for it in this plane; the provider has the same patterns (``airflow_provider_llmops/redaction.py``), and a test
compares them. What is shown instead is ``***``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

HIDDEN = "***"
_MIN_SECRET_CHARACTERS = 8  # a shorter value, such as "true", would blank out ordinary words

# A name that ends so holds a secret: hub_token and apiKey do; eos_token, max_tokens and tokenizer do not.
_SECRET_NAME = re.compile(
    r"(?i)(?<!eos)(?<!pad)(?<!bos)(?<!unk)(?<!cls)(?<!sep)(?<!mask)(?<!image)(?<!video)(?<!audio)(?<!special)(?<!next)"
    r"(?:^|[_.-])(?:token|secret|password|passwd|passphrase|pwd|apikey|accesskey|accountkey|privatekey|authorization|cookie"
    r"|credentials?|sas|(?<=[_.-])key|private_key_id)$"
)
# What ends so as well, and is none.
_OTHER_NAME = re.compile(
    r"(?i)(?:^|[_.-])(?:(?:sort|primary|foreign|public|text|prompt|cache|partition|group|row|index|state)[_.-]?key"
    r"|(?:per|stop|start|first|last)[_.-]token)$"
)
# Of these a number is one, too; of others it counts something.
_PASSWORD_NAME = re.compile(r"(?i)(?:secret|password|passwd|passphrase|pwd)$")
# Where a word begins, also behind the \n of a text that is shown as JSON or by Python.
_WORD = r"(?:(?<![A-Za-z0-9_])|(?<=\\[nrt]))"
_QUOTE = r"(?:\\{0,4}[\"'])?"
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NO_TOKENS = "".join(
    f"(?<!{kind}.token)"
    for kind in (
        "eos",
        "pad",
        "bos",
        "unk",
        "cls",
        "sep",
        "mask",
        "image",
        "video",
        "audio",
        "special",
        "next",
        "per",
        "stop",
        "start",
        "first",
        "last",
        "unexpected",
    )
)
_NAMES = (
    rf"(?:token{_NO_TOKENS}|secret(?:[_-]?(?:access[_-]?)?key)?|passw(?:or)?d|passphrase|(?<![a-z])pwd|api[_-]?key|access[_-]?key(?:[_-]?id)?"
    r"|account[_-]?key|shared[_-]?access[_-]?(?:key|signature)|private[_-]?key(?:[_-]?id)?|credentials?)"
)
_IN_QUERY = (
    r"(?:sig|signature|key|auth|jwt|code|sessionid|x-(?:amz|goog)-(?:signature|credential|security-token))"
)
# What follows a name is no secret if it says that there is none, or is a number.
_SAYS_NOTHING = r"(?!(?:none|null|true|false|\*\*\*|\d{1,7}|<[^>]*>)(?:[\s\"',;&)}\]]|\\|$))"
_BEGINNINGS = (
    "hf_",
    "gh",
    "glpat",
    "sk-",
    "gsk_",
    "npm_",
    "dckr_",
    "r8_",
    "nvapi",
    "pypi-",
    "xox",
    "dapi",
    "akia",
    "asia",
    "aroa",
    "aida",
    "aiza",
    "ya29.",
    "sg.",
    "eyj",
)
_HINT = re.compile(rf"{_NAMES}{_QUOTE}\s{{0,4}}[:=]".lower())
_NAMED: tuple[str, ...] = ()  # what _HINT finds
# Each with what has to be in the text, in lower case, for it to be worth a look.
_PATTERNS = [
    # Keys and certificates in PEM, on lines of their own or with \n in between; also where an end is cut off.
    (
        ("-----",),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{1,40}-----(?:(?>(?:[A-Za-z0-9+/=:,. \t\r\n]|\\{1,8}[rn]|-(?!----))*)-----END [A-Z0-9 ]{1,40}-----"
            r"|(?:(?:\s|\\{1,8}[rn])*+[A-Za-z0-9+/=]{8,}+)*+)"
            r"|(?:^[A-Za-z0-9+/=]{16,100}\r?\n){1,60}-----END [A-Z0-9 ]{1,40}-----",
            re.MULTILINE,
        ),
        HIDDEN,
    ),
    # scheme://user:password@host; a password may have '@' and '/' in it, a port is none.
    (("://",), re.compile(r"://(?!git@)[^/\s\"'<>?#]{1,512}@"), f"://{HIDDEN}@"),
    (
        ("://",),
        re.compile(r"://[^/\s\"'<>:@]{0,128}:(?!\d{1,5}(?:[/?#\s]|$))[^\s\"'<>@]{1,256}@(?=[\w\[])"),
        f"://{HIDDEN}@",
    ),
    # user:password@host, but no digest of an image and no mail address.
    (
        ("@",),
        re.compile(
            r"(?i)(?<![\w/.@+-])(?!(?:mailto|e-?mail|from|to|cc|bcc|author|contact|maintainer|sip|xmpp|acct):)[\w.+%-]{1,64}:"
            r"(?!//)[^\s:/@\"'<>]{1,128}@(?=localhost\b|\d{1,3}(?:\.\d{1,3}){3}|[a-z][a-z0-9-]{0,62}(?::\d|(?:\.[a-z0-9-]{1,63}){0,8}"
            r"\.[a-z]{2,24}\b))"
        ),
        f"{HIDDEN}@",
    ),
    # Headers, as they are sent and as Python shows them.
    (
        ("authorization",),
        re.compile(
            rf"(?i){_WORD}((?:proxy-)?authorization{_QUOTE}\s{{0,4}}[:=,]\s{{0,4}}b?{_QUOTE})"
            r"(?:(?:bearer|basic|digest|token|negotiate|apikey|aws4-hmac-sha256)"
            r"\s{1,4}[^\r\n\"']{1,4096}|[^\s\"',;]{8,4096})"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        ("cookie",),
        re.compile(
            rf"(?i){_WORD}((?:set-)?cookie{_QUOTE}\s{{0,4}}[:=,]\s{{0,4}}b?{_QUOTE})"
            r"[^\r\n\"'=]{1,256}=[^\r\n\"']{0,4096}"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        ("bearer", "basic"),
        re.compile(
            rf"(?i){_WORD}bearer"
            r"\s{1,4}(?!(?:authentication|authorization|credentials?|tokens?)\b)[A-Za-z0-9._~+/=-]{8,4096}"
            rf"|{_WORD}basic"
            r"\s{1,4}(?=[A-Za-z0-9+/]{0,200}[0-9=])[A-Za-z0-9+/]{12,4096}={0,2}"
        ),
        HIDDEN,
    ),
    # Names with their values: in query strings, connection strings, JSON, YAML, and what Python shows.
    (
        ("?", "&", ";"),
        re.compile(
            rf"(?i)([?&;](?:[\w.-]{{0,64}}{_NAMES}|{_IN_QUERY})(?:=|%3D)){_SAYS_NOTHING}[^&\s\"'<>;,)\]}}]{{1,8192}}"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        _NAMED,
        re.compile(
            rf"(?i)({_NAMES}{_QUOTE}\s{{0,4}}[:=]\s{{0,4}}b?\\{{0,4}}([\"'])){_SAYS_NOTHING}(?:(?!\\{{0,4}}\2)[^\r\n]){{1,8192}}"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        _NAMED,
        re.compile(
            rf"(?i)({_NAMES}\s{{0,4}}=\s{{0,4}}){_SAYS_NOTHING}(?![\"'\[{{(])[^\s\"'&,;)\]}}]{{1,8192}}"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        _NAMED,
        re.compile(
            rf"(?i)({_NAMES}:\s{{0,4}}){_SAYS_NOTHING}(?![\"'\[{{(])(?=[^\s\"',;)]{{0,200}}\d)[^\s\"',;)\]}}]{{6,8192}}"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        _NAMED,
        re.compile(
            r"(?i)((?<![\w.-])(?:password|passwd|passphrase):\s{0,4})(?![\"'\[{(\s])[^\s\"',;)]{4,256}(?=[\s,;)]|$)(?!\s+[a-z])"
        ),
        rf"\1{HIDDEN}",
    ),
    # Tokens that are known by their beginning.
    (
        _BEGINNINGS,
        re.compile(
            rf"{_WORD}"
            r"(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|sk-(?=[\w-]{0,64}\d|[A-Za-z0-9]{24})[\w-]{16,}"
            r"|(?:gsk|npm|dckr_pat|r8)_(?=\w{0,64}\d)\w{20,}|nvapi-[\w-]{20,}|pypi-[\w-]{32,}|xox[abeoprs]-[\w-]{10,}|dapi[0-9a-f]{32}"
            r"|(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}|AIza[\w-]{30,}|ya29\.[\w.-]{16,}|SG\.[\w-]{16,}\.[\w-]{16,}"
            r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]{0,4096})?)(?![A-Za-z0-9])"
        ),
        HIDDEN,
    ),
]
_PEM_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{1,40}-----")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{1,40}-----")
_PEM_BODY = re.compile(r"[A-Za-z0-9+/=]*|[A-Za-z-]+: .*")
# An absolute path of two parts or more that is not the path of a URL: only its last part says anything elsewhere.
_PATH = re.compile(r"(?<![\w:/.@~-])(?:file://)?/(?:[\w.@+ -]*[\w.@+-]/)+([\w.@+-]+)/?")


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name holds a secret, as ``hub_token`` does; ``eos_token`` and ``max_tokens`` do not."""
    words = _CAMEL.sub("_", name)
    return bool(_SECRET_NAME.search(words)) and not _OTHER_NAME.search(words)


def redact(text: str) -> str:
    """A text without passwords, tokens, keys, and values of secret environment variables."""
    for name, value in os.environ.items():
        if name != "PWD" and len(value) >= _MIN_SECRET_CHARACTERS and value in text and is_secret_name(name):
            text = text.replace(value, HIDDEN)
    lowered = text.lower()
    is_named = _HINT.search(lowered) is not None
    for hints, pattern, instead in _PATTERNS:
        if is_named if hints is _NAMED else any(hint in lowered for hint in hints):
            text = pattern.sub(instead, text)
    return text


def redacted(value: Any) -> Any:
    """Settings without secrets, however deep they lie."""
    if isinstance(value, Mapping):
        return {key: HIDDEN if _is_secret(str(key), item) else redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def _is_secret(name: str, value: Any) -> bool:
    """Whether what a setting holds is one: a number is only where it would be a password."""
    if value is None or isinstance(value, bool) or value in ("", [], {}, ()) or not is_secret_name(name):
        return False
    numbers = value if isinstance(value, list | tuple) else [value]
    if all(isinstance(number, int | float) for number in numbers):
        return bool(_PASSWORD_NAME.search(name))
    return True


def hide_in(error: BaseException) -> None:
    """Take secrets out of an error and of those that led to it, in place: a log shows the whole chain."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        _hide_in_one(each)
        waiting += (each.__cause__, each.__context__, *getattr(each, "exceptions", ()))


def _hide_in_one(error: BaseException) -> None:
    with contextlib.suppress(Exception):  # what cannot be changed is looked at below
        error.args = tuple(redact(arg) if isinstance(arg, str) else arg for arg in error.args)
        for name in ("strerror", "filename", "filename2", "msg", "text", "__notes__"):
            value = getattr(error, name, None)
            if isinstance(value, str | list) and (shown := redacted(value)) != value:
                setattr(error, name, shown)
    with contextlib.suppress(Exception):  # one that cannot be shown is not
        text = str(error)
        said = redact(text)
        if said != text:  # made of something else than its arguments
            kind = type(error)
            names = {
                "__str__": lambda _: said,
                "__module__": kind.__module__,
                "__qualname__": kind.__qualname__,
            }
            error.__class__ = type(kind.__name__, (kind,), names)


def redact_lines(lines: Iterable[str]) -> Iterator[str]:
    """Lines without secrets, as they come; a key in PEM is hidden across them."""
    in_key = False
    for line in lines:
        if in_key:
            in_key = not _PEM_END.search(line) and _PEM_BODY.fullmatch(line.strip()) is not None
            if in_key or _PEM_END.search(line):
                continue
        begins = [match.end() for match in _PEM_BEGIN.finditer(line)]
        in_key = bool(begins) and not _PEM_END.search(line, begins[-1])
        yield redact(line)


def without_paths(text: str) -> str:
    """A text in which absolute paths of files are cut to the file's name."""
    return _PATH.sub(r"\1", text)


def flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings under dotted names, as texts without secrets; what is not set is left out."""
    return dict(_flatten(redacted(values)))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", redact(str(value))
