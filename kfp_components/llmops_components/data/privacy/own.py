"""What Presidio does not look for: tokens of services, private keys, and addresses with a login, by RE2.

The forms of tokens are those that :mod:`llmops_components.redaction` hides in messages.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llmops_components.data.privacy.kinds import ACCESS_TOKEN, URL_WITH_LOGIN

OWN: dict[str, str] = {
    URL_WITH_LOGIN: r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s/@:\"'<>]{0,100}:[^\s@/\"'<>]{1,200}@"
    r"[\w\[](?:[^\s\"'<>(){}\x{201c}\x{201d}\x{201e}\xab\xbb,;]{0,500}[\w/])?",
    ACCESS_TOKEN: (
        r"\b(?:hf_[A-Za-z0-9]{16,200}|gh[pousr]_[A-Za-z0-9]{16,200}|github_pat_\w{16,200}|glpat-[\w-]{16,200}"
        r"|sk-(?:proj-|ant-|or-|svcacct-)?[A-Za-z0-9][\w-]{18,300}\d[\w-]{0,100}|hvs\.[\w-]{20,300}|[sr]k_(?:live|test)_\w{16,200}"
        r"|lsv2_\w{20,200}|gsk_\w{20,200}|npm_[A-Za-z0-9]{30,60}|dckr_pat_[\w-]{20,60}|nvapi-[\w-]{20,200}|pypi-[\w-]{32,300}"
        r"|xox[abeoprs]-[\w-]{10,200}|dapi[0-9a-f]{32}|(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}|AIza[\w-]{30,60}|ya29\.[\w.-]{16,300}"
        r"|SG\.[\w-]{16,60}\.[\w-]{16,100}|eyJ[\w-]{8,900}\.eyJ[\w-]{8,900}(?:\.[\w-]{0,900})?)"
        r"|-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z0-9 ]{0,60}-----|\z)"
    ),
}


@cache
def own_expression(kind: str) -> Any:
    """The compiled expression of a kind.

    Args:
        kind: One of :data:`OWN`.
    """
    import re2

    return re2.compile(OWN[kind], _options())


def _options() -> Any:
    import re2

    options = re2.Options()
    options.max_mem = 64 << 20
    options.log_errors = False
    return options
