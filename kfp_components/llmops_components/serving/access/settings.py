"""The access file of a service: who may ask it, how often, with which certificate, and where that is noted.

JSON that only its owner may read, made and changed by ``python -m llmops_components.serving.access``::

    {
      "keys": [{"name": "alice", "sha256": "...", "requests_per_minute": 60, "tokens_per_minute": 20000}],
      "tls": {"certificate": "/etc/llmops/tls.crt", "key": "/etc/llmops/tls.key"},
      "audit": {"directory": "/var/log/llmops", "content": false}
    }

Everything in it is optional. Without ``keys`` everybody may ask; with an empty list nobody. A key is written as its
SHA-256 digest, or as it is (``"key": "..."``), as in a mounted Kubernetes secret. A server reads the file again when it changes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops_components.errors import SettingError, check_known
from llmops_components.json_text import parse_json

VLLM_KEY_VARIABLE = "VLLM_API_KEY"
FILE_VARIABLE = "LLMOPS_ACCESS_FILE"
# What somebody thinks up is guessed from its digest; 16 characters are what vLLM's users make with `openssl rand -hex 8`.
SHORTEST_KEY = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_VISIBLE = re.compile(r"[!-~]+")
_LIMITS = ("requests_per_minute", "tokens_per_minute")


@dataclass(frozen=True)
class Key:
    """One caller.

    Args:
        name: Who it is, as the audit log has it.
        digest: SHA-256 of the key.
        requests_per_minute: Most requests in any minute; no limit when None.
        tokens_per_minute: Most tokens, read and written, in any minute; no limit when None.
    """

    name: str
    digest: bytes = field(repr=False)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True)
class Tls:
    """A certificate and its key.

    Args:
        certificate: PEM file with the certificate and what is between it and the root.
        key: PEM file with the private key.
    """

    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """What a server needs to offer TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
        except OSError as error:  # ssl.SSLError is one
            raise SettingError(
                f"Cannot use the TLS certificate: {error.strerror or error}. Expected a certificate and its private key, not "
                f"encrypted, as PEM. Certificate: {self.certificate}, key: {self.key}."
            ) from None
        return context

    def version(self) -> tuple[tuple[int, int], ...]:
        """What changes when the files do."""
        found = [path.stat() for path in (self.certificate, self.key)]
        return tuple((each.st_ino, each.st_mtime_ns) for each in found)

    def own_client_context(self) -> ssl.SSLContext:
        """What the service's controller needs to trust this certificate, whoever signed it and whatever name it has."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


@dataclass(frozen=True)
class Audit:
    """How requests are noted.

    Args:
        directory: Where the log goes; the service's own directory when None.
        content: Whether what was asked and answered is noted, too.
    """

    directory: Path | None = None
    content: bool = False


@dataclass(frozen=True)
class AccessSettings:
    """An access file, checked.

    Args:
        keys: Who may ask; everybody when None.
        tls: Certificate, if there is one.
        audit: How requests are noted.
    """

    keys: tuple[Key, ...] | None = None
    tls: Tls | None = None
    audit: Audit = Audit()

    def identify(self, authorization: str | None) -> Key | None:
        """Whose key a header has; the time that it takes tells nothing about the keys.

        Args:
            authorization: The header ``Authorization``.
        """
        scheme, _, key = (authorization or "").partition(" ")
        digest = digest_of_key(key.strip())
        found = None
        for candidate in self.keys or ():
            if hmac.compare_digest(candidate.digest, digest):
                found = candidate
        return found if scheme.lower() == "bearer" else None


class Access:
    """The access settings of a running server, as the file says now.

    Args:
        file: The access file, if there is one.
        environment: Where ``VLLM_API_KEY`` is looked up, the one key of a server without a file.
    """

    def __init__(self, file: Path | None, environment: Mapping[str, str] | None = None) -> None:
        self.file = file
        self._version: tuple[int, int, int] | None = None
        self._settings = AccessSettings()
        if file is None:
            self._settings = of_environment(os.environ if environment is None else environment)
        else:
            self.settings()

    def settings(self) -> AccessSettings:
        """The settings, read again if the file is another one than before.

        Raises:
            SettingError: The file cannot be read: nobody gets in until it can.
        """
        if self.file is None:
            return self._settings
        try:
            found = os.stat(self.file)  # noqa: PTH116  half the cost of Path.stat(), and on every request
        except OSError as error:
            self._version = None
            raise SettingError(f"Cannot read the access file: {error.strerror}. File: {self.file}.") from None
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        if version != self._version:
            self._version = None
            self._settings = read_access_file(self.file)
            self._version = version
        return self._settings


def digest_of_key(key: str) -> bytes:
    """What is kept of a key.

    Args:
        key: The key.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def of_environment(environment: Mapping[str, str]) -> AccessSettings:
    """Settings of a server without an access file: the key of ``VLLM_API_KEY``, as vLLM reads it.

    Args:
        environment: Environment variables.
    """
    if not (key := environment.get(VLLM_KEY_VARIABLE)):
        return AccessSettings()
    return AccessSettings(keys=(Key("default", digest_of_key(_checked_key(key, VLLM_KEY_VARIABLE))),))


def read_access_file(file: Path) -> AccessSettings:
    """Read and check an access file.

    Args:
        file: Its absolute path.

    Raises:
        SettingError: It is missing, others may read keys in it, or something in it is wrong; the message repeats no key.
    """
    given = load_access_file(file)
    where = f"the access file {file}"
    check_known(given, ("keys", "tls", "audit"), f"field in {where}")
    keys = _keys(given, file)
    if keys is not None and any("key" in each for each in given["keys"]):
        _check_private(file)
    return AccessSettings(keys=keys, tls=_tls(given, where), audit=_audit(given, where))


def load_access_file(file: Path) -> dict[str, Any]:
    """The JSON of an access file.

    Args:
        file: Its path.
    """
    try:
        given = parse_json(file.read_bytes())
    except OSError as error:
        raise SettingError(f"Cannot read the access file: {error.strerror}. File: {file}.") from None
    except (ValueError, RecursionError):  # what json says of it would repeat a part
        raise SettingError(f"The access file is not JSON. File: {file}.") from None
    if not isinstance(given, dict):
        raise SettingError(f"The access file is not a JSON object. File: {file}.")
    return given


def _keys(given: dict[str, Any], file: Path) -> tuple[Key, ...] | None:
    if "keys" not in given:
        return None
    if not isinstance(given["keys"], list):
        raise SettingError(f"'keys' of the access file is not a list. File: {file}.")
    keys: list[Key] = []
    for index, item in enumerate(given["keys"]):
        key = _key(item, f"keys[{index}] of the access file {file}")
        if any(key.name == other.name or key.digest == other.digest for other in keys):
            raise SettingError(
                f"keys[{index}] of the access file has the name or the key of another one. File: {file}."
            )
        keys.append(key)
    return tuple(keys)


def _key(item: Any, where: str) -> Key:
    if not isinstance(item, dict):
        raise SettingError(f"Not an object: {where}.")
    check_known(item, ("name", "sha256", "key", *_LIMITS), f"field in {where}")
    limits = {name: limit(item.get(name), f"{name} of {where}") for name in _LIMITS}
    if ("sha256" in item) == ("key" in item):
        raise SettingError(f"Either 'sha256' or 'key' is needed: {where}.")
    if "key" in item:
        digest = digest_of_key(_checked_key(item["key"], where))
    elif isinstance(item["sha256"], str) and _DIGEST.fullmatch(item["sha256"]):
        digest = bytes.fromhex(item["sha256"])
    else:
        raise SettingError(f"sha256 is not 64 digits of a SHA-256 in lower case: {where}.")
    return Key(check_key_name(item.get("name"), where), digest, **limits)


def check_key_name(name: Any, where: str) -> str:
    """Return the name of a key if it is one.

    Args:
        name: The name.
        where: Where it stands, for the message.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SettingError(
            f"The name of a key has 1 to 64 letters, digits, '.', '_', '@' and '-', and begins with a letter or digit: {where}."
        )
    return name


def limit(value: Any, where: str) -> int | None:
    """Return a quota if it is one.

    Args:
        value: The number, or None for no limit.
        where: Where it stands, for the message.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise SettingError(f"A quota is a whole number from 1 on: {where}.")
    return value


def _checked_key(key: Any, where: str) -> str:
    if not isinstance(key, str) or len(key) < SHORTEST_KEY or not _VISIBLE.fullmatch(key):
        raise SettingError(
            f"A key has at least {SHORTEST_KEY} visible ASCII characters, and no space: {where}. Make one with python -m "
            "llmops_components.serving.access."
        )
    return key


def _check_private(file: Path) -> None:
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return  # a mounted secret is readable by all users of its container, and is in no other
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingError(
            f"Others than its owner may read the access file, which has keys in it as they are: chmod 600 it, or write their "
            f"sha256. File: {file}."
        )


def _tls(given: dict[str, Any], where: str) -> Tls | None:
    if "tls" not in given:
        return None
    tls = given["tls"] if isinstance(given["tls"], dict) else {}
    check_known(tls, ("certificate", "key"), f"field in tls of {where}")
    paths = {name: _absolute(tls.get(name), f"{name} in tls of {where}") for name in ("certificate", "key")}
    made = Tls(**paths)
    try:
        made.server_context()
    except SettingError as error:
        raise SettingError(f"{error} Named in {where}.") from None
    return made


def _audit(given: dict[str, Any], where: str) -> Audit:
    audit = given.get("audit", {})
    if not isinstance(audit, dict):
        raise SettingError(f"'audit' of {where} is not an object.")
    check_known(audit, ("directory", "content"), f"field in audit of {where}")
    content = audit.get("content", False)
    if not isinstance(content, bool):
        raise SettingError(f"content in audit of {where} is neither true nor false.")
    directory = audit.get("directory")
    return Audit(
        None if directory is None else _absolute(directory, f"directory in audit of {where}"), content
    )


def _absolute(path: Any, where: str) -> Path:
    if not isinstance(path, str) or not Path(path).is_absolute():
        raise SettingError(f"Expected an absolute path: {where}.")
    return Path(path)
