"""Secrets in the middle of a text, found by what stands before them or by how they begin."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable

from airflow_provider_llmops.redaction.signs import HIDDEN, is_login, is_secret_name

# Where a word begins, also behind the \n of a text that is shown as JSON or by Python.
_WORD = r"(?:(?<![A-Za-z0-9_])|(?<=\\[nrt]))"
_QUOTE = r"(?:\\{0,4}[\"'])?"
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
_Instead = str | Callable[[re.Match[str]], str]
# Each with what has to be in the text, in lower case, for it to be worth a look.
_PATTERNS: list[tuple[tuple[str, ...], str, _Instead]] = [
    # scheme://user:password@host; a password may have '@' and '/' in it, a port is none.
    (("@",), r"://(?!git@)[^/\s\"'<>?#]{1,512}@", f"://{HIDDEN}@"),
    (
        ("@",),
        r"://[^/\s\"'<>:@]{0,128}:(?!\d{1,5}(?:[/?#\s]|$))[^\s\"'<>@]{1,256}@(?=[\w\[])",
        f"://{HIDDEN}@",
    ),
    # user:password@host, but no digest of an image and no mail address.
    (
        ("@",),
        (
            r"(?i)(?<![\w/.@+-])(?!(?:mailto|e-?mail|from|to|cc|bcc|author|contact|maintainer|sip|xmpp|acct):)[\w.+%-]{1,64}:"
            r"(?!//)[^\s:/@\"'<>]{1,128}@(?=localhost\b|\d{1,3}(?:\.\d{1,3}){3}|[a-z][a-z0-9-]{0,62}(?::\d|(?:\.[a-z0-9-]{1,63}){0,8}"
            r"\.[a-z]{2,24}\b))"
        ),
        f"{HIDDEN}@",
    ),
    # A password with '/' behind digits, where an address has no path with '@'; one with spaces; and addresses that are encoded.
    (
        ("amqp", "postgres", "mysql", "mariadb", "redis", "mongodb"),
        r"(?i)((?:amqps?|postgres(?:ql)?|mysql|mariadb|rediss?|mongodb)(?:\+\w{1,32})?://)[^/\s\"'<>:@]{0,128}:[^\s\"'<>@]{1,256}@(?=[\w\[])",
        rf"\1{HIDDEN}@",
    ),
    (
        ("@",),
        r"://[^/\s\"'<>:@]{1,128}:(?!\d{1,5}(?:\W|$))[^\s\"'<>@/,;]{1,64}(?: [^\s\"'<>@/:,;]{1,64}){1,3}@(?=[\w\[])",
        f"://{HIDDEN}@",
    ),
    (
        ("%2f",),
        r"(?i)(%(?:25)?3A%(?:25)?2F%(?:25)?2F)(?!\*\*\*)(?:(?!%(?:25)?(?:2F|3F|40))[^\s\"'<>&/?]){1,256}(%(?:25)?40)",
        rf"\1{HIDDEN}\2",
    ),
    # Headers, as they are sent and as Python shows them.
    (
        ("authorization",),
        (
            rf"(?i){_WORD}((?:proxy-)?authorization{_QUOTE}\s{{0,4}}[:=,]\s{{0,4}}b?{_QUOTE})"
            r"(?:(?:bearer|basic|digest|token|negotiate|apikey|aws4-hmac-sha256)"
            rf"\s{{1,4}}(?:{_SAME_LINE}[^\r\n\"']){{1,4096}}|(?:{_SAME_LINE}[^\s\"',;]){{8,4096}})"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        ("cookie",),
        (
            rf"(?i){_WORD}((?:set-)?cookie{_QUOTE}\s{{0,4}}[:=,]\s{{0,4}}b?{_QUOTE})"
            rf"(?:{_SAME_LINE}[^\r\n\"'=]){{1,256}}=(?:{_SAME_LINE}[^\r\n\"']){{0,4096}}"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        ("bearer", "basic"),
        (
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
        rf"(?i)([?&;](?:[\w.-]{{0,64}}{_NAMES}|{_IN_QUERY})(?:=|%3D)){_SAYS_NOTHING}(?:{_SAME_LINE}[^&\s\"'<>;,)\]}}]){{1,8192}}",
        rf"\1{HIDDEN}",
    ),
    (
        _NAMED,
        rf"(?i)({_NAMES}{_QUOTE}\s{{0,4}}[:=]\s{{0,4}}b?){_QUOTED}",
        rf"\1\2\3{HIDDEN}",
    ),
    (
        _NAMED,
        rf"(?i)({_NAMES}(?:\s{{0,4}}=\s{{0,4}}|%(?:25)?3D)){_SAYS_NOTHING}(?![\"'\[{{(\\])(?:{_SAME_LINE}[^\s\"'&,;)\]}}]|;(?=[^\s\"'&,;)\]}}])(?![\w.-]{{0,64}}=)){{1,8192}}",
        rf"\1{HIDDEN}",
    ),
    (
        _NAMED,
        rf"(?i)({_NAMES}:\s{{0,4}}){_SAYS_NOTHING}(?![\"'\[{{(])(?=(?:{_SAME_LINE}[^\s\"',;)]){{0,200}}\d)(?:{_SAME_LINE}[^\s\"',;)\]}}]){{6,8192}}",
        rf"\1{HIDDEN}",
    ),
    (
        _NAMED,
        (
            rf"(?i)((?:(?<![\w.-])|(?<=\\[nrt]))(?:password|passwd|passphrase|secret):\s{{0,4}})(?![\"'\[{{(\s]|\*\*\*){_LACKS}"
            rf"(?:(?-i:(?=\S{{0,256}}[a-z][A-Z])|(?=\S{{0,256}}[!#$%^*_+]))(?:{_SAME_LINE}[^\s\"',;)]){{4,256}}|(?:{_SAME_LINE}[^\s\"',;)]){{4,256}}(?=[\s,;)\\]|$)"
            r"(?!\s{1,4}[a-z]))"
        ),
        rf"\1{HIDDEN}",
    ),
    # A password that is a number, without quotes.
    (
        _NAMED,
        rf"(?i)((?:passw(?:or)?d|passphrase|(?:(?<![a-z])|(?<=\\[nrt]))pwd|secret|api[_-]?key){_QUOTE}:\s{{0,4}})\d[\d.]{{0,63}}(?=[\s\"',;&)}}\]]|\\|$)(?!\s{{1,4}}[a-z])",
        rf"\1{HIDDEN}",
    ),
    # Lists of options of a command, and headers as pairs.
    (
        _NAMED,
        (
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
        rf"(?i)({_OPTION}\s{{1,4}}){_SPEAKS}{_STANDS_FOR}{_SAYS_NOTHING}(?![-\"'<\[{{($])(?:{_SAME_LINE}[^\s\"',;)\]}}]){{1,8192}}",
        rf"\1{HIDDEN}",
    ),
    (
        ("_token ", "_key ", "_secret ", "_password ", "_token\t", "_key\t", "_secret\t", "_password\t"),
        r"((?:(?<![A-Za-z0-9_])|(?<=\\[nrt]))[A-Z][A-Z0-9_]{0,64}_(?:TOKEN|KEY|SECRET|PASSWORD)[ \t]{1,4})(?=(?:[^\s\d]{0,64}\d){3})[A-Za-z0-9_+=]{16,8192}(?=\s|$|[\"'\\])",
        rf"\1{HIDDEN}",
    ),
    (
        ("-u", "--user", "--proxy-user"),
        (
            r"((?:(?<![\w-])|(?<=\\[nrt]))(?:-u|-U|--user|--proxy-user)(?:\s{1,4}|=|\\{0,7}[\"'],\s{0,4}\\{0,7}[\"']))(?!\d{1,7}:\d{1,7}\b)(?!\*\*\*)"
            r"[^\s:\"'\\]{1,64}:[^\s\"'\\]{1,256}"
        ),
        rf"\1{HIDDEN}",
    ),
    # Values that validations repeat: pydantic's, of dataclasses, and where an address has no port.
    (
        ("input_value=",),
        r"(\binput_value=)(?!\*\*\*|(?:-?\d[\d.e+-]{0,40}|True|False|None),)[^\n]{1,300}?(?=, input_type=)",
        rf"\1{HIDDEN}",
    ),
    (
        ("(value: ",),
        rf"(Field \\{{0,7}}[\"'](\w{{1,100}})\\{{0,7}}[\"'] (?:{_SAME_LINE}[^\n]){{0,300}}?\(value: )(?:{_SAME_LINE}[^\n]){{1,8192}}\)",
        lambda found: found[0] if not is_secret_name(found[2]) else f"{found[1]}{HIDDEN})",
    ),
    (
        ("port: ",),
        rf"(?i)({_WORD}(?:nonnumeric|invalid) port: ?\\{{0,7}}[\"']?)[^\s\"'@]{{1,256}}@",
        rf"\1{HIDDEN}@",
    ),
    # The login of a registry, as Docker's config.json has it.
    (
        ("auth",),
        r"((?:(?<![\w.-])|(?<=\\[nrt]))auth\\{0,7}[\"']\s{0,4}:\s{0,4}\\{0,7}[\"'])([A-Za-z0-9+/=_-]{8,8192})",
        lambda found: found[1] + (HIDDEN if is_login(found[2]) else found[2]),
    ),
    # Tokens that are known by their beginning.
    (
        _BEGINNINGS,
        (
            rf"{_WORD}"
            r"(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|sk-(?=[\w-]{0,64}\d|[A-Za-z0-9]{24})[\w-]{16,}"
            r"|hvs\.[\w-]{20,}|[sr]k_(?:live|test)_\w{16,}|lsv2_\w{20,}|(?:gsk|npm|dckr_pat|r8)_(?=\w{0,64}\d)\w{20,}|nvapi-[\w-]{20,}|pypi-[\w-]{32,}|xox[abeoprs]-[\w-]{10,}|dapi[0-9a-f]{32}"
            r"|(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}|AIza[\w-]{30,}|ya29\.[\w.-]{16,}|SG\.[\w-]{16,}\.[\w-]{16,}"
            r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]{0,4096})?)(?![A-Za-z0-9])"
        ),
        HIDDEN,
    ),
]


@functools.cache
def _by_hints() -> list[tuple[tuple[str, ...], list[tuple[re.Pattern[str], _Instead]]]]:
    """The patterns by what has to be in a text. Compiled with the first text: whoever only reads DAGs has none."""
    return [
        (hints, [(re.compile(pattern), instead) for _, pattern, instead in found])
        for hints, found in itertools.groupby(_PATTERNS, key=lambda each: each[0])
    ]


def hide_by_patterns(text: str) -> str:
    """A text in which the secrets are hidden that a name or their shape tells.

    :param text: what is to be said
    """
    lowered = text.lower()
    is_named = _has_any(lowered, _STEMS) and _HINT.search(lowered) is not None
    for hints, patterns in _by_hints():
        if is_named if hints is _NAMED else _has_any(lowered, hints):
            for pattern, instead in patterns:
                text = pattern.sub(instead, text)
    return text


def _has_any(text: str, hints: tuple[str, ...]) -> bool:
    for hint in hints:  # noqa: SIM110 - any() takes several times as long, and every line comes here
        if hint in text:
            return True
    return False
