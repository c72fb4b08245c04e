"""A broker's address with what it says of TLS: one spelling for Redis and RabbitMQ, read alike by hub and client.

kombu by itself trusts any certificate behind a bare `rediss://`, and checks no host's name behind `amqps://`. Here the
server must always show a certificate of a trusted authority, for the name it was called by.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

# By redis-py's names, which many know. Of RabbitMQ's they are the same without their beginning.
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_CHECK_HOST: Final = "ssl_check_hostname"
_CHECK_CERTIFICATE: Final = "ssl_cert_reqs"
_KNOWN: Final = (*_FILES, _CHECK_HOST, _CHECK_CERTIFICATE)


@dataclass(frozen=True, slots=True)
class Address:
    """A URL without its TLS parameters, and those as kombu takes them; `tls` is None without TLS."""

    url: str = field(repr=False)  # it may hold a password
    tls: dict[str, Any] | None = None


def read_address(url: str) -> Address:
    """The address that a broker's or result store's URL stands for.

    Raises: ValueError, which never quotes the URL: TLS parameters that are unknown, unsafe, contradict the scheme or
    name a file that can't be read.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or "?" not in rest:
        return Address(url, _options(url, {}) if _is_secure(scheme) else None)
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    given = {name: value for name, value in pairs if name.startswith("ssl")}
    if not given:
        return Address(url, _options(url, {}) if _is_secure(scheme) else None)
    if not _is_secure(scheme):
        raise ValueError(f"{min(given)} is for TLS, and {scheme}:// has none: write {_secure(scheme)}://")
    others = urlencode([(name, value) for name, value in pairs if name not in given])
    bare = url.partition("?")[0] + (f"?{others}" if others else "")
    return Address(bare, _options(bare, given))


def _is_secure(scheme: str) -> bool:
    return scheme.lower() in ("rediss", "amqps")


def _secure(scheme: str) -> str:
    return "amqps" if scheme.startswith("amqp") else "rediss"


def _options(url: str, given: dict[str, str]) -> dict[str, Any]:
    for name in given:
        if name not in _KNOWN:
            raise ValueError(f"{name} is no TLS parameter known here; known are {', '.join(_KNOWN)}")
    if given.get(_CHECK_CERTIFICATE, "required").lower() not in ("required", "cert_required"):
        raise ValueError(
            f"{_CHECK_CERTIFICATE} must be required: a certificate that nobody checks guards against nobody; "
            "name your own authority, or a self-signed certificate, by ssl_ca_certs"
        )
    check = given.get(_CHECK_HOST, "true").lower()
    if check not in ("true", "false"):
        raise ValueError(f"{_CHECK_HOST} is true or false")
    files: dict[str, Any] = {name: given[name] for name in _FILES if name in given}
    if "ssl_keyfile" in files and "ssl_certfile" not in files:
        raise ValueError("ssl_keyfile needs ssl_certfile, the certificate that the key belongs to")
    for name, file in files.items():
        if not Path(file).is_file() or not os.access(file, os.R_OK):
            raise ValueError(f"{name} names {file}, which is no file that can be read")
    if url.lower().startswith("rediss:"):
        return {**files, _CHECK_CERTIFICATE: ssl.CERT_REQUIRED, _CHECK_HOST: check == "true"}
    options: dict[str, Any] = {name.removeprefix("ssl_"): file for name, file in files.items()}
    options["cert_reqs"] = ssl.CERT_REQUIRED
    if check == "true":
        # Without it the name is not looked at; left to kombu, a certificate for localhost would not be one.
        options["server_hostname"] = urlsplit(url).hostname or "localhost"
    return options
