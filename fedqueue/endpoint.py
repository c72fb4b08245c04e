"""Where the hub is: its broker, its results, its store."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

from fedqueue.errors import EndpointUnknown, InvalidArgument
from fedqueue.tls import Address, read_address

if TYPE_CHECKING:
    from fedqueue.signing import SigningFiles

ENDPOINT_FILE: Final = "endpoint.json"
_REDIS_SCHEMES: Final = ("redis", "rediss", "redis+socket", "valkey", "valkeys", "sentinel")


@dataclass(frozen=True)
class Endpoint:
    """The three addresses of a hub, as its clients see them, and by what messages are signed if they are."""

    broker_url: str
    result_url: str
    store_url: str | None = None
    signing: SigningFiles | None = None

    def broker(self) -> Address:
        """The broker's, its TLS parameters read. Raises: InvalidArgument."""
        return _address(self.broker_url, "broker_url")

    def results(self) -> Address:
        """That of the answers. Raises: InvalidArgument."""
        return _address(self.result_url, "result_url")

    def __repr__(self) -> str:
        return f"Endpoint({masked(self.broker_url)}, {masked(self.result_url)}, {self.store_url})"


def find_endpoint(
    broker_url: str | None = None,
    result_url: str | None = None,
    store_url: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Endpoint:
    """The hub's addresses: the arguments, else FEDQUEUE_BROKER_URL, _RESULT_URL and _STORE_URL, else the file that a
    hub on this machine has left (`endpoint.json` in FEDQUEUE_HOME, `.fedqueue` by default).

    A broker named by argument or environment is never mixed with the file's store: they may be two hubs.
    Raises: EndpointUnknown, saying what to set.
    """
    environ = os.environ if environ is None else environ
    broker = broker_url or environ.get("FEDQUEUE_BROKER_URL")
    result = result_url or environ.get("FEDQUEUE_RESULT_URL")
    store = store_url or environ.get("FEDQUEUE_STORE_URL")
    if not broker:
        path = Path(environ.get("FEDQUEUE_HOME") or ".fedqueue") / ENDPOINT_FILE
        left = _read(path)
        broker = left["broker_url"]
        result = result or left.get("result_url")
        store = store or left.get("store_url")
    return Endpoint(broker, result or _result_url(broker), store)


def find_signing(
    key: str | os.PathLike[str] | None = None,
    certificate: str | os.PathLike[str] | None = None,
    trusted: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> SigningFiles | None:
    """What messages are signed by: the arguments, else FEDQUEUE_SIGNING_KEY, _CERTIFICATE and _TRUSTED_CERTIFICATES.

    None if there is nothing of it. Raises: InvalidArgument if something of it is missing.
    """
    environ = os.environ if environ is None else environ
    found = {
        "signing_key": key or environ.get("FEDQUEUE_SIGNING_KEY"),
        "signing_certificate": certificate or environ.get("FEDQUEUE_SIGNING_CERTIFICATE"),
        "trusted_certificates": trusted or environ.get("FEDQUEUE_SIGNING_TRUSTED_CERTIFICATES"),
    }
    missing = [name for name, value in found.items() if not value]
    if len(missing) == len(found):
        return None
    if missing:
        raise InvalidArgument(missing[0], "is missing: signed messages need a key, its certificate and those to trust")
    from fedqueue.signing import SigningFiles

    paths = [os.fspath(value) for value in found.values() if value]
    return SigningFiles(Path(paths[0]), Path(paths[1]), paths[2])


def _read(path: Path) -> dict[str, str]:
    try:
        left = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EndpointUnknown(
            f"where is the hub? Pass broker_url, or set FEDQUEUE_BROKER_URL (and FEDQUEUE_STORE_URL), or start one "
            f"here with `python -m worker up` and run in the same folder, or set FEDQUEUE_HOME to its folder "
            f"(there is no {path})"
        ) from None
    except (OSError, ValueError) as error:
        raise EndpointUnknown(f"{path} can't be read ({error}): start the hub again to have it rewritten") from error
    if not isinstance(left, dict) or not isinstance(left.get("broker_url"), str):
        raise EndpointUnknown(f"{path} names no broker_url: start the hub again to have it rewritten")
    return {key: value for key, value in left.items() if isinstance(value, str)}


def _result_url(broker_url: str) -> str:
    """Where answers come from if nobody said: the same Redis, else the broker itself."""
    return broker_url if urlsplit(broker_url).scheme in _REDIS_SCHEMES else "rpc://"


def _address(url: str, field: str) -> Address:
    try:
        return read_address(url)
    except ValueError as error:
        raise InvalidArgument(field, str(error)) from None


def masked(url: str) -> str:
    """The URL without its password, fit for a message."""
    url = re.sub(r"([?&](?:ssl)?password=)[^&#]*", r"\1***", url, flags=re.I)
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.split(':')[0]}:***@{host}"))
