"""What shows that something is a secret: its name, or that it is a login or as random as a token."""

from __future__ import annotations

import binascii
import contextlib
import re

HIDDEN = "***"
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
PASSWORD_NAME = re.compile(r"(?i)(?:secret|password|passwd|passphrase|pwd)$")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name holds a secret, as ``hub_token`` does; ``eos_token`` and ``max_tokens`` do not.

    :param name: of the setting
    """
    words = _CAMEL.sub("_", name)
    return bool(_SECRET_NAME.search(words)) and not _OTHER_NAME.search(words)


def is_login(value: str) -> bool:
    """Whether a text is ``user:password`` in base64, or looks as random as a token does."""
    with contextlib.suppress(ValueError):
        if (
            b":"
            in binascii.a2b_base64(value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4), strict_mode=True)[
                1:
            ]
        ):
            return True
    return len(value) >= 20 and has_all_kinds(value)


def has_all_kinds(body: str) -> bool:
    return not body.islower() and not body.isupper() and any(character.isdigit() for character in body)
