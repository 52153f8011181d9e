"""Keep secrets out of everything that is written or said: messages, logs, XCom.

The one place for it in this plane; the data plane has the same patterns (``llmops_components/redaction.py``), and a test
compares them. What is shown instead is ``***``.
"""

from __future__ import annotations

import binascii
import contextlib
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

HIDDEN = "***"
_MIN_SECRET_CHARACTERS = 8  # a shorter value, such as "true", would blank out ordinary words
_MIN_IN_PAIR = 6  # what follows a header's name in a pair, as a label does the name of a column

# A name that ends so holds a secret: hub_token and apiKey do; eos_token, max_tokens and tokenizer do not.
_SECRET_NAME = re.compile(
    r"(?i)(?<!eos)(?<!pad)(?<!bos)(?<!unk)(?<!cls)(?<!sep)(?<!mask)(?<!image)(?<!video)(?<!audio)(?<!special)(?<!next)"
    r"(?:^|[_.-])(?:token|secret|password|passwd|passphrase|pwd|apikey|accesskey|accountkey|privatekey|subscriptionkey|authorization|cookie"
    r"|credentials?|sas|(?<=[_.-])key|(?<=[_.-])pass|private_key_id)$"
)
# What ends so as well, and is none.
_OTHER_NAME = re.compile(
    r"(?i)(?:^|[_.-])(?:(?:sort|primary|foreign|public|text|prompt|cache|partition|group|row|index|state)[_.-]?key"
    r"|(?:per|stop|start|first|last)[_.-]token|(?:forward|backward|first|second|single|last|per|each)[_.-]pass)$"
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
# A number behind these counts something; behind other names it is a secret, too.
_COUNTS = rf"(?!{_QUOTE}\s{{0,4}}[:=]\s{{0,4}}{_QUOTE}\d{{1,7}}(?:[\s\"',;&)}}\]]|\\|$))"
_NAMES = (
    rf"(?:token{_NO_TOKENS}{_COUNTS}|secret(?:[_-]?(?:access[_-]?)?key)?|passw(?:or)?d|passphrase|(?:(?<![a-z])|(?<=\\[nrt]))pwd|api[_-]?key|access[_-]?key(?:[_-]?id)?"
    r"|account[_-]?key|shared[_-]?access[_-]?(?:key|signature)|private[_-]?key(?:[_-]?id)?|subscription[_-]?key"
    rf"|credentials?{_COUNTS}"
    r"|(?:(?<![a-z])|(?<=\\[nrt]))(?:db|user|smtp|ftp|proxy|mysql|postgres|pg|redis|rabbitmq|mail|http|admin|root|login)_?pass"
    r"|(?:(?<![\w.-])|(?<=\\[nrt]))pass(?==(?!\d|true|false|yes|no|ok)))"
)
_IN_QUERY = r"(?:sig|signature|key|auth|jwt|pass|pw|code|sessionid|x-(?:amz|goog)-(?:signature|credential|security-token))"
# What follows a name is no secret if it says that there is none.
_SAYS_NOTHING = r"(?!(?:none|null|true|false|\*\*\*|<[^>]*>)(?:[\s\"',;&)}\]]|\\|$))"
# A line ends here as well, in a text that is shown as JSON or by Python: what follows may be another name.
_SAME_LINE = r"(?!\\{1,8}[nr])"
_BEGINNINGS = (
    "hf_",
    "gh",
    "glpat",
    "sk-",
    "gsk_",
    "npm_",
    "hvs.",
    "k_live_",
    "k_test_",
    "lsv2_",
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
# A value in quotes ends at a quote with as many backslashes before it as the first one has (group 2 before \3): one more is its own.
_QUOTED = (
    r"(\\{0,7})([\"'])" + _SAYS_NOTHING + r"(?>(?:(?!\3)[^\\\r\n]|\\++(?!\3)|\2\2\\(?=\3)\3"
    r"|\2\\++\3(?!\s{0,4}(?:[,;:}\])]|$))){1,8192})"
)
# Words that follow the name of an option where somebody speaks of it.
_SPEAKS = (
    r"(?!(?:is|are|was|were|must|may|can|cannot|has|have|and|or|to|in|of|for|with|needs?|not|from|if|as|option|argument|flag|value"
    r"|requires?|expected?|expects|given|missing|without|on|at|by|which|that|the|an?|there|will|should|instead|when|does|takes?"
    r"|before|after|but|only|also|so|then|be|used|set|into)\b)"
)
_OPTION = rf"(?:(?<![\w-])|(?<=\\[nrt]))--?(?:[\w.-]{{0,64}}[_-])?{_NAMES}"
# A word that stands for the value of an option, as a usage has it: --token TOKEN.
_STANDS_FOR = r"(?!(?-i:[A-Z][A-Z_]{0,40})(?:[\s\"',;.)}\]]|$))"
# What a secret lacks, as texts say it.
_LACKS = (
    r"(?!(?:unknown|missing|empty|unset|absent|required|optional|invalid|wrong|incorrect|expired|denied|rejected|hidden|redacted"
    r"|not|no|must|should|cannot)\b)"
)
_STEMS = (
    "token",
    "secret",
    "pass",
    "pwd",
    "key",
    "credential",
    "signature",
)  # without which no name is in a text
_HINT = re.compile(
    rf"(?:token|secret|passw(?:or)?d|passphrase|pwd|pass|key(?:[_-]?id)?|credentials?|signature){_QUOTE}(?:\s{{0,4}}[:=,]|%)"
)
_NAMED: tuple[str, ...] = ()  # what _HINT finds
# Each with what has to be in the text, in lower case, for it to be worth a look.
_PATTERNS: list[tuple[tuple[str, ...], re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    # scheme://user:password@host; a password may have '@' and '/' in it, a port is none.
    (("@",), re.compile(r"://(?!git@)[^/\s\"'<>?#]{1,512}@"), f"://{HIDDEN}@"),
    (
        ("@",),
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
    # A password with '/' behind digits, where an address has no path with '@'; one with spaces; and addresses that are encoded.
    (
        ("amqp", "postgres", "mysql", "mariadb", "redis", "mongodb"),
        re.compile(
            r"(?i)((?:amqps?|postgres(?:ql)?|mysql|mariadb|rediss?|mongodb)(?:\+\w{1,32})?://)[^/\s\"'<>:@]{0,128}:[^\s\"'<>@]{1,256}@(?=[\w\[])"
        ),
        rf"\1{HIDDEN}@",
    ),
    (
        ("@",),
        re.compile(
            r"://[^/\s\"'<>:@]{1,128}:(?!\d{1,5}(?:\W|$))[^\s\"'<>@/,;]{1,64}(?: [^\s\"'<>@/:,;]{1,64}){1,3}@(?=[\w\[])"
        ),
        f"://{HIDDEN}@",
    ),
    (
        ("%2f",),
        re.compile(
            r"(?i)(%(?:25)?3A%(?:25)?2F%(?:25)?2F)(?!\*\*\*)(?:(?!%(?:25)?(?:2F|3F|40))[^\s\"'<>&/?]){1,256}(%(?:25)?40)"
        ),
        rf"\1{HIDDEN}\2",
    ),
    # Headers, as they are sent and as Python shows them.
    (
        ("authorization",),
        re.compile(
            rf"(?i){_WORD}((?:proxy-)?authorization{_QUOTE}\s{{0,4}}[:=,]\s{{0,4}}b?{_QUOTE})"
            r"(?:(?:bearer|basic|digest|token|negotiate|apikey|aws4-hmac-sha256)"
            rf"\s{{1,4}}(?:{_SAME_LINE}[^\r\n\"']){{1,4096}}|(?:{_SAME_LINE}[^\s\"',;]){{8,4096}})"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        ("cookie",),
        re.compile(
            rf"(?i){_WORD}((?:set-)?cookie{_QUOTE}\s{{0,4}}[:=,]\s{{0,4}}b?{_QUOTE})"
            rf"(?:{_SAME_LINE}[^\r\n\"'=]){{1,256}}=(?:{_SAME_LINE}[^\r\n\"']){{0,4096}}"
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
            rf"(?i)([?&;](?:[\w.-]{{0,64}}{_NAMES}|{_IN_QUERY})(?:=|%3D)){_SAYS_NOTHING}(?:{_SAME_LINE}[^&\s\"'<>;,)\]}}]){{1,8192}}"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        _NAMED,
        re.compile(rf"(?i)({_NAMES}{_QUOTE}\s{{0,4}}[:=]\s{{0,4}}b?){_QUOTED}"),
        rf"\1\2\3{HIDDEN}",
    ),
    (
        _NAMED,
        re.compile(
            rf"(?i)({_NAMES}(?:\s{{0,4}}=\s{{0,4}}|%(?:25)?3D)){_SAYS_NOTHING}(?![\"'\[{{(\\])(?:{_SAME_LINE}[^\s\"'&,;)\]}}]|;(?=[^\s\"'&,;)\]}}])(?![\w.-]{{0,64}}=)){{1,8192}}"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        _NAMED,
        re.compile(
            rf"(?i)({_NAMES}:\s{{0,4}}){_SAYS_NOTHING}(?![\"'\[{{(])(?=(?:{_SAME_LINE}[^\s\"',;)]){{0,200}}\d)(?:{_SAME_LINE}[^\s\"',;)\]}}]){{6,8192}}"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        _NAMED,
        re.compile(
            rf"(?i)((?:(?<![\w.-])|(?<=\\[nrt]))(?:password|passwd|passphrase|secret):\s{{0,4}})(?![\"'\[{{(\s]|\*\*\*){_LACKS}"
            rf"(?:(?-i:(?=\S{{0,256}}[a-z][A-Z])|(?=\S{{0,256}}[!#$%^*_+]))(?:{_SAME_LINE}[^\s\"',;)]){{4,256}}|(?:{_SAME_LINE}[^\s\"',;)]){{4,256}}(?=[\s,;)\\]|$)"
            r"(?!\s{1,4}[a-z]))"
        ),
        rf"\1{HIDDEN}",
    ),
    # A password that is a number, without quotes.
    (
        _NAMED,
        re.compile(
            rf"(?i)((?:passw(?:or)?d|passphrase|(?:(?<![a-z])|(?<=\\[nrt]))pwd|secret|api[_-]?key){_QUOTE}:\s{{0,4}})\d[\d.]{{0,63}}(?=[\s\"',;&)}}\]]|\\|$)(?!\s{{1,4}}[a-z])"
        ),
        rf"\1{HIDDEN}",
    ),
    # Lists of options of a command, and headers as pairs.
    (
        _NAMED,
        re.compile(
            rf"(?i)((?:{_OPTION}|(?:(?<![\w-])|(?<=\\[nrt]))(?:(?:x-(?:[\w-]{{1,40}}-)?|ocp-apim-)(?:{_NAMES})|api-key)(?=\\{{0,7}}[\"'],\s{{0,4}}b?\\{{0,7}}"
            rf"[\"'][^\"'\r\n]{{6}}))\\{{0,7}}[\"'],\s{{0,4}}b?){_QUOTED}"
        ),
        rf"\1\2\3{HIDDEN}",
    ),
    # Options of a command, and variables as a shell's lists have them.
    (
        tuple(
            f"{before}{name}{blank}"
            for before in "-_"
            for name in (
                "token",
                "secret",
                "key",
                "password",
                "passwd",
                "pass",
                "passphrase",
                "pwd",
                "credentials",
            )
            for blank in " \t"
        ),
        re.compile(
            rf"(?i)({_OPTION}\s{{1,4}}){_SPEAKS}{_STANDS_FOR}{_SAYS_NOTHING}(?![-\"'<\[{{($])(?:{_SAME_LINE}[^\s\"',;)\]}}]){{1,8192}}"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        ("_token ", "_key ", "_secret ", "_password ", "_token\t", "_key\t", "_secret\t", "_password\t"),
        re.compile(
            r"((?:(?<![A-Za-z0-9_])|(?<=\\[nrt]))[A-Z][A-Z0-9_]{0,64}_(?:TOKEN|KEY|SECRET|PASSWORD)[ \t]{1,4})(?=(?:[^\s\d]{0,64}\d){3})[A-Za-z0-9_+=]{16,8192}(?=\s|$|[\"'\\])"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        ("-u", "--user", "--proxy-user"),
        re.compile(
            r"((?:(?<![\w-])|(?<=\\[nrt]))(?:-u|-U|--user|--proxy-user)(?:\s{1,4}|=|\\{0,7}[\"'],\s{0,4}\\{0,7}[\"']))(?!\d{1,7}:\d{1,7}\b)(?!\*\*\*)"
            r"[^\s:\"'\\]{1,64}:[^\s\"'\\]{1,256}"
        ),
        rf"\1{HIDDEN}",
    ),
    # Values that validations repeat: pydantic's, of dataclasses, and where an address has no port.
    (
        ("input_value=",),
        re.compile(
            r"(\binput_value=)(?!\*\*\*|(?:-?\d[\d.e+-]{0,40}|True|False|None),)[^\n]{1,300}?(?=, input_type=)"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        ("(value: ",),
        re.compile(
            rf"(Field \\{{0,7}}[\"'](\w{{1,100}})\\{{0,7}}[\"'] (?:{_SAME_LINE}[^\n]){{0,300}}?\(value: )(?:{_SAME_LINE}[^\n]){{1,8192}}\)"
        ),
        lambda found: found[0] if not is_secret_name(found[2]) else f"{found[1]}{HIDDEN})",
    ),
    (
        ("port: ",),
        re.compile(rf"(?i)({_WORD}(?:nonnumeric|invalid) port: ?\\{{0,7}}[\"']?)[^\s\"'@]{{1,256}}@"),
        rf"\1{HIDDEN}@",
    ),
    # The login of a registry, as Docker's config.json has it.
    (
        ("auth",),
        re.compile(
            r"((?:(?<![\w.-])|(?<=\\[nrt]))auth\\{0,7}[\"']\s{0,4}:\s{0,4}\\{0,7}[\"'])([A-Za-z0-9+/=_-]{8,8192})"
        ),
        lambda found: found[1] + (HIDDEN if _is_login(found[2]) else found[2]),
    ),
    # Tokens that are known by their beginning.
    (
        _BEGINNINGS,
        re.compile(
            rf"{_WORD}"
            r"(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|sk-(?=[\w-]{0,64}\d|[A-Za-z0-9]{24})[\w-]{16,}"
            r"|hvs\.[\w-]{20,}|[sr]k_(?:live|test)_\w{16,}|lsv2_\w{20,}|(?:gsk|npm|dckr_pat|r8)_(?=\w{0,64}\d)\w{20,}|nvapi-[\w-]{20,}|pypi-[\w-]{32,}|xox[abeoprs]-[\w-]{10,}|dapi[0-9a-f]{32}"
            r"|(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}|AIza[\w-]{30,}|ya29\.[\w.-]{16,}|SG\.[\w-]{16,}\.[\w-]{16,}"
            r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]{0,4096})?)(?![A-Za-z0-9])"
        ),
        HIDDEN,
    ),
]
_BY_HINTS = [
    (hints, [(pattern, instead) for _, pattern, instead in found])
    for hints, found in itertools.groupby(_PATTERNS, key=lambda each: each[0])
]
_PEM_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{1,40}-----")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{1,40}-----")
# In one piece; its lines may follow each other by blanks alone.
_PEM_WHOLE = re.compile(
    r"-----BEGIN [A-Z0-9 ]{1,40}-----(?>(?:[A-Za-z0-9+/=:,. \t\r\n]|\\{1,8}[rn]|-(?!----))*)-----END [A-Z0-9 ]{1,40}-----"
)
_PEM_BEGUN = re.compile(
    r"-----BEGIN [A-Z0-9 ]{1,40}-----(?:(?:[ \t]|\\{1,8}[rn])++[A-Za-z0-9+/=]{16,}+(?=[\s\"'\\]|$))*+"
)
# Who speaks of such a line goes on behind it.
_PEM_OPENS = re.compile(r"-----BEGIN [A-Z0-9 ]{1,40}-----(?:\\{1,8}[rn])*+[\"',\s]*+$")
_PEM_HEADER = re.compile(r"(?:Proc-Type|DEK-Info|Version|Comment|Charset): ")
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
# A line of a key reads otherwise, but for a short last one.
_WORD_ALONE = re.compile(r"(?:[A-Z]?[a-z]{2,}+)++|[A-Z]{1,15}|[a-z]|\d{1,15}|")
_NOTHING = re.compile(r"(?:\\{1,8}[rn])*+[\"',\s]*+")
_NEWLINE = re.compile(r"(\n|\\{1,8}n)")
_LAST_NEWLINE = re.compile(r"(?:\n|(?<!\\)\\{1,8}n)\Z")
_NUMBER = re.compile(r"\d+")
_MIN_BODY_CHARACTERS = 16
_CERTAIN_CHARACTERS = 40  # a key's lines have 64 or 70
_MAX_LINES_HELD = 3
_MAX_LINES_BETWEEN = 100  # of other processes, between the lines of a key


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name holds a secret, as ``hub_token`` does; ``eos_token`` and ``max_tokens`` do not.

    :param name: of the setting
    """
    words = _CAMEL.sub("_", name)
    return bool(_SECRET_NAME.search(words)) and not _OTHER_NAME.search(words)


def redact(text: str) -> str:
    """A text without passwords, tokens, keys, and values of secret environment variables.

    :param text: what is to be said
    """
    for name in _secret_variables(tuple(os.environ)):
        if len(value := os.environ.get(name, "")) >= _MIN_SECRET_CHARACTERS:
            text = text.replace(value, HIDDEN)
    lowered = text.lower()
    if "-----" in lowered:
        text = _hide_keys(text)
    is_named = _has_any(lowered, _STEMS) and _HINT.search(lowered) is not None
    for hints, patterns in _BY_HINTS:
        if is_named if hints is _NAMED else _has_any(lowered, hints):
            for pattern, instead in patterns:
                text = pattern.sub(instead, text)
    return text


@functools.lru_cache(16)
def _secret_variables(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name != "PWD" and is_secret_name(name))


def _is_login(value: str) -> bool:
    """Whether a text is ``user:password`` in base64, or looks as random as a token does."""
    with contextlib.suppress(ValueError):
        if (
            b":"
            in binascii.a2b_base64(value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4), strict_mode=True)[
                1:
            ]
        ):
            return True
    return len(value) >= 20 and _has_all_kinds(value)


def _has_any(text: str, hints: tuple[str, ...]) -> bool:
    for hint in hints:  # noqa: SIM110 - any() takes several times as long, and every line comes here
        if hint in text:
            return True
    return False


def redacted(value: Any) -> Any:
    """A value as JSON has it, without secrets, however deep they lie.

    :param value: what is to be written
    """
    if isinstance(value, Mapping):
        return {
            redact(key) if isinstance(key, str) else key: HIDDEN
            if _is_secret(str(key), item)
            else redacted(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            HIDDEN if isinstance(item, str) and at and _announces(value[at - 1], value) else redacted(item)
            for at, item in enumerate(value)
        ]
    return redact(value) if isinstance(value, str) else value


def _announces(name: Any, values: Sequence[Any]) -> bool:
    """Whether a secret follows in a list: behind an option as ``--token``, or a header as ``X-Api-Key`` in a pair."""
    return isinstance(name, str) and (
        (name.startswith("-") and is_secret_name(name.lstrip("-")))
        or (len(values) == 2 and "-" in name and len(values[1]) >= _MIN_IN_PAIR and is_secret_name(name))
    )


def _is_secret(name: str, value: Any) -> bool:
    """Whether what a setting holds is one: a number is only where it would be a password."""
    if name == "auth" and isinstance(value, str):
        return _is_login(value)
    if value is None or isinstance(value, bool) or value in ("", [], {}, ()) or not is_secret_name(name):
        return False
    numbers = value if isinstance(value, list | tuple) else [value]
    if all(isinstance(number, int | float) for number in numbers):
        return bool(_PASSWORD_NAME.search(name))
    return True


class Redactor:
    """Hides secrets in lines as they come, keys in PEM across them, whatever a logger puts before each line.

    What follows a key's first line is the key's while it reads so. A line that may be either, as one that is empty or a
    single word, is held until the next one tells.
    """

    def __init__(self) -> None:
        self._before: str | None = (
            None  # what stands before each line of the key that goes on, as _shape gives it
        )
        self._others = 0  # lines since the key's last one

    def lines(self, lines: Iterable[str]) -> Iterator[str]:
        """Lines without secrets; a key may go on in the lines of the next call.

        :param lines: with or without what ends them
        """
        for line in self.without_keys(lines):
            yield redact(line)

    def without_keys(self, lines: Iterable[str]) -> Iterator[str]:
        """Lines without those of a key but its first one.

        :param lines: with or without what ends them
        """
        held: list[str] = []
        for line in lines:
            if self._before is not None and _PEM_BEGIN.search(line) is None:
                if end := _PEM_END.search(line):
                    self._before = None
                    held.clear()
                    if not _NOTHING.fullmatch(rest := line[end.end() :]):
                        yield rest
                    continue
                is_part = self._is_part(line)
                if is_part:
                    held.clear()
                    continue
                if is_part is None and len(held) < _MAX_LINES_HELD:
                    held.append(line)
                    continue
                self._others += 1
                if self._others > _MAX_LINES_BETWEEN:
                    self._before = None
            yield from held
            held.clear()
            if begin := _PEM_OPENS.search(line):
                self._before, self._others = _shape(line[: begin.start()]), 0
            yield line
        yield from held

    def _is_part(self, line: str) -> bool | None:
        """Whether a line is the key's; ``None`` if it may be."""
        head, body = _split_line(line)
        is_certain = len(body) >= _CERTAIN_CHARACTERS and _has_all_kinds(body)
        if not is_certain and _shape(head) in ("", self._before):
            if self._others:  # another process may have written in between
                is_certain = len(body) >= _MIN_BODY_CHARACTERS and _has_all_kinds(body)
            elif _WORD_ALONE.fullmatch(body):
                return None
            else:
                is_certain = True
        elif not is_certain and (header := _PEM_HEADER.search(line)):
            is_certain = not self._others and _shape(line[: header.start()]) in ("", self._before)
        if is_certain:
            self._others = 0
        return is_certain


def _shape(head: str) -> str:
    """What stands before a line's own text, alike for all lines of a logger: its numbers differ."""
    return _NUMBER.sub("0", " ".join(head.split())).strip(" \"'")


def _split_line(line: str) -> tuple[str, str]:
    """What stands before the characters of a key at the end of a line, and these."""
    for _ in range(4):  # what ends a text, and newlines as Python and JSON show them
        line = line.rstrip(" \t\r\n,")
        if (inner := line.rstrip(")]}")).endswith(("'", '"')):
            line = inner.rstrip("\"'")
        if line.endswith(("\\n", "\\r")):
            line = line[:-1].rstrip("\\")
    head = line.rstrip(_BASE64)
    return head, line[len(head) :]


def _has_all_kinds(body: str) -> bool:
    return not body.islower() and not body.isupper() and any(character.isdigit() for character in body)


def _hide_keys(text: str) -> str:
    """A text without keys and certificates in PEM, on lines of their own, with \\n in between, or in one line."""
    text = _PEM_WHOLE.sub(HIDDEN, text)
    if "-----BEGIN" in text or "-----END" in text:
        parts = [*_NEWLINE.split(text), ""]
        lines = [line + end for line, end in zip(parts[::2], parts[1::2], strict=True)]
        hidden = "".join(Redactor().without_keys(_without_end_of_key(lines)))
        text = hidden if _LAST_NEWLINE.search(text) else _LAST_NEWLINE.sub("", hidden)
    return _PEM_BEGUN.sub(HIDDEN, text)


def _without_end_of_key(lines: list[str]) -> list[str]:
    """Lines without those of a key whose beginning is cut off."""
    for at, line in enumerate(lines):
        if _PEM_BEGIN.search(line):
            break
        if end := _PEM_END.search(line):
            before, start = _shape(line[: end.start()]), at
            while start and _may_be_body(lines[start - 1], before):
                start -= 1
            if any(len(_split_line(each)[1]) >= _MIN_BODY_CHARACTERS for each in lines[start:at]):
                return [*lines[:start], line[: end.start()] + HIDDEN + line[end.end() :], *lines[at + 1 :]]
            break
    return lines


def _may_be_body(line: str, before: str) -> bool:
    head, body = _split_line(line)
    return _shape(head) in ("", before) and bool(body)


def hide_in(error: BaseException) -> None:
    """Take secrets out of an error and of those that led to it, in place: a log shows the whole chain.

    :param error: what is going to be raised, or logged
    """
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        _hide_in_one(each)
        _replace_those_that_tell(each)
        waiting += (each.__cause__, each.__context__, *getattr(each, "exceptions", ()))


def _replace_those_that_tell(error: BaseException) -> None:
    """Put others in the place of those that led to an error and cannot be changed, as those of libraries in C or Rust."""
    is_suppressed = error.__suppress_context__
    for name in ("__cause__", "__context__"):
        led: BaseException | None = getattr(error, name)
        if led is None:
            continue
        _hide_in_one(led)
        with contextlib.suppress(Exception):
            if (said := redact(text := str(led))) != text:
                setattr(error, name, _stand_in(led, said))
    error.__suppress_context__ = is_suppressed


def _stand_in(error: BaseException, said: str) -> BaseException:
    kind = type(error)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    instead: BaseException = type(kind.__name__, (Exception,), names)(said).with_traceback(
        error.__traceback__
    )
    instead.__cause__, instead.__context__ = error.__cause__, error.__context__
    instead.__suppress_context__ = error.__suppress_context__
    return instead


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
