"""What stands in place of personal data: the name of its kind, or a stand-in that is the same wherever the value is."""

from __future__ import annotations

import hmac
import os
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

from llmops_components.data.privacy.kinds import ACCESS_TOKEN, EMAIL_ADDRESS, PHONE_NUMBER, URL_WITH_LOGIN
from llmops_components.errors import SettingError

_LEAST_KEY_BYTES = 16
_LETTERS = str.maketrans(
    "0123456789abcdef", "abcdefghijklmnop"
)  # with digits it could be taken for a phone number
_DIGITS = 12  # of a stand-in: two values in a million have the same one with a chance of 1 in 500
Instead = Callable[[str, str], str]


def masked(kind: str, value: str) -> str:
    """The name of the kind in angle brackets, as Presidio writes it.

    Args:
        kind: The kind.
        value: What is replaced.
    """
    return f"<{kind}>"


def pseudonyms(variable: str, phone_regions: Sequence[str]) -> Instead:
    """What gives one and the same stand-in for a value in all rows and files, under a key.

    Whoever has the key can tell whether a value that they guess is the one; nobody else can. Another key gives other
    stand-ins. Spellings of one value are one: capitals of a mail address, spaces in a number.

    Args:
        variable: The environment variable that holds the key, which stands in no record.
        phone_regions: Whose phone numbers are known without a country's code.

    Raises:
        SettingError: The variable is not set, or the key is too short to be one.
    """
    key = key_in(variable)

    @lru_cache(100_000)
    def stand_in(kind: str, value: str) -> str:
        plain = f"{kind}\0{_plain(kind, value, phone_regions)}"
        return f"<{kind}_{hmac.digest(key, plain.encode(), 'sha256').hex()[:_DIGITS].translate(_LETTERS)}>"

    return stand_in


def key_in(variable: str) -> bytes:
    """The key that an environment variable holds.

    Args:
        variable: Its name.

    Raises:
        SettingError: It is not set, or too short.
    """
    key = os.environ.get(variable, "").encode()
    if not key:
        raise SettingError(
            f"No key for stand-ins is in the environment variable {variable!r}: set it where the step runs, to at least "
            f"{_LEAST_KEY_BYTES} bytes that nobody can guess, as `openssl rand -hex 32` makes."
        )
    if len(key) < _LEAST_KEY_BYTES:
        raise SettingError(
            f"The key in the environment variable {variable!r} has {len(key)} bytes, and needs {_LEAST_KEY_BYTES} at least."
        )
    return key


def _plain(kind: str, value: str, phone_regions: Sequence[str]) -> str:
    """A value in one spelling."""
    if kind in (ACCESS_TOKEN, URL_WITH_LOGIN):
        return value
    value = unicodedata.normalize("NFKC", value)
    if kind == EMAIL_ADDRESS:
        return value.casefold()
    if kind == PHONE_NUMBER:
        return _international(value, phone_regions)
    return "".join(filter(str.isalnum, value)).upper() if kind != "IP_ADDRESS" else value.lower()


def _international(value: str, regions: Sequence[str]) -> str:
    import phonenumbers

    for region in regions:
        try:
            number = phonenumbers.parse(value, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(number):
            return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
    return "".join(filter(str.isdigit, value))
