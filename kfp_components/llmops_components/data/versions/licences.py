"""SPDX expressions of licences: what is one, and whether others allow it."""

from __future__ import annotations

from collections.abc import Collection


def canonical_licence(text: str) -> str | None:
    """An SPDX expression as SPDX writes it; None where it is none.

    Args:
        text: The expression: ``apache-2.0``, ``MIT OR (GPL-2.0-only WITH Classpath-exception-2.0)``.
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None


def allows(expression: str, allowed: Collection[str]) -> bool:
    """Whether data under an expression may be used where some licences are allowed.

    Of licences joined by ``OR`` one has to be allowed, of those joined by ``AND`` each; an exception only allows more.

    Args:
        expression: Of :func:`canonical_licence`.
        allowed: Identifiers as SPDX writes them.
    """
    words = expression.replace("(", " ( ").replace(")", " ) ").split()

    def either() -> bool:
        found = both()
        while words and words[0] == "OR":
            words.pop(0)
            found = both() or found  # the right side is read in any case
        return found

    def both() -> bool:
        found = one()
        while words and words[0] == "AND":
            words.pop(0)
            found = one() and found
        return found

    def one() -> bool:
        word = words.pop(0)
        if word == "(":
            found = either()
            words.pop(0)
            return found
        if words and words[0] == "WITH":
            del words[:2]
        return word in allowed

    return either()
