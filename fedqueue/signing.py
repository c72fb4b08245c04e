"""Signed messages: Celery's auth serializer around JSON, with the task's name and id within what is signed.

Celery signs a message's body alone, so that whoever can write to the broker could put a signed body under another
task's name; here the body says which call it is of. Celery also opens what is signed by whatever content type stands
beside the signature, which is not signed; here it is JSON or nothing.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from celery.app.amqp import AMQP
from kombu.serialization import registry

CONTENT_TYPE: Final = "application/data"  # what Celery calls it
SERIALIZER: Final = "auth"
ENCODING: Final = "utf-8"

# Among what Celery puts beside a task's arguments: the call that they are of.
BOUND: Final = "signed"

_INNER: Final = ("application/json", "utf-8")
_DIGEST: Final = "sha256"


class SigningFailed(ValueError):
    """A key or certificate that can't be used, or a message that nobody trusted has signed."""


@dataclass(frozen=True, slots=True)
class SigningFiles:
    """Where a party's key lies, its certificate, and those of whom it believes: a folder, or a pattern of files."""

    key: Path
    certificate: Path
    trusted: str


class Signer:
    """Signs what is sent and opens what was signed by somebody trusted. Safe to share between threads and forks."""

    def __init__(self, files: SigningFiles, *, believes_itself: bool = False) -> None:
        """`believes_itself`: a hub's processes send to each other. Raises: SigningFailed naming the file and the rule.

        A trusted certificate that has expired stops nothing but the messages of its owner.
        """
        try:
            from celery.exceptions import ImproperlyConfigured
            from celery.security.certificate import Certificate, CertStore
            from celery.security.key import PrivateKey
            from celery.security.serialization import SecureSerializer
        except (ImportError, ImproperlyConfigured) as error:  # pragma: no cover  # the hub's own lock has it
            raise SigningFailed("signed messages need the package cryptography: pip install celery[auth]") from error

        own = _read(files.certificate, "certificate", Certificate)
        key = _read(files.key, "private key", PrivateKey)
        if key._key.public_key() != own.get_pubkey():
            raise SigningFailed(f"{files.certificate} is not the certificate of the key in {files.key}")
        if own.has_expired():
            raise SigningFailed(f"{files.certificate} has expired: nobody would believe what is signed by it")
        store = CertStore()
        paths = _trusted_paths(files.trusted)
        certificates = {}
        for path in paths:
            certificate = _read(path, "certificate", Certificate)
            certificates[certificate.get_id()] = certificate
        if believes_itself:
            certificates[own.get_id()] = own
        for certificate in certificates.values():
            store.add_cert(certificate)
        self._celerys = SecureSerializer(key=key, cert=own, cert_store=store, digest=_DIGEST, serializer="json")
        self._store = store
        self.certificate_id: str = own.get_id()

    def sign(self, data: Any) -> str:
        """The data as JSON, signed, as it travels."""
        signed: str = self._celerys.serialize(data)
        return signed

    def open(self, body: Any) -> Any:
        """What was signed, if somebody trusted did so. Raises: SigningFailed."""
        from celery.exceptions import SecurityError

        try:
            found = self._celerys._unpack(body)
            if (found["content_type"], found["content_encoding"].lower()) != _INNER:
                raise SigningFailed("what is signed is not JSON")
            self._store[found["signer"]].verify(found["body"], found["signature"], self._celerys._digest)
            return registry.loads(found["body"], *_INNER, force=True)  # type: ignore[no-untyped-call]
        except SigningFailed:
            raise
        except SecurityError as error:
            raise SigningFailed(str(error) or "the signature is wrong") from error
        # Whatever else a damaged or forged body leads to on its way to the signature.
        except Exception as error:
            raise SigningFailed(f"it is not signed: {type(error).__name__}") from error

    def register(self) -> None:
        """Have this whole process sign what it sends as `auth`, and open what comes as such."""
        registry.register(SERIALIZER, self.sign, self.open, CONTENT_TYPE, ENCODING)  # type: ignore[no-untyped-call]

    def register_own(self) -> str:
        """The name of a serializer that signs so, beside any other; nothing else of this process is changed."""
        name = f"fedqueue.{hashlib.sha256(self.certificate_id.encode()).hexdigest()[:16]}"
        registry.register(name, self.sign, None, CONTENT_TYPE, ENCODING)  # type: ignore[no-untyped-call]
        return name


class BindingAMQP(AMQP):
    """Puts into each task's body whose body it is; see `check_binding`."""

    def as_task_v2(self, task_id: str, name: str, *args: Any, **kwargs: Any) -> Any:
        """Celery's, with the binding beside the arguments."""
        message = super().as_task_v2(task_id, name, *args, **kwargs)
        arguments, named, embedded = message.body
        return message._replace(body=(arguments, named, embedded | {BOUND: {"task": name, "id": task_id}}))


def check_binding(embedded: Mapping[str, Any] | None, headers: Mapping[str, Any]) -> None:
    """Return if a signed body lies under the task and id that it was signed for, or names none, as plain Celery's.

    Raises: SigningFailed.
    """
    bound = (embedded or {}).get(BOUND)
    if bound is None:
        return
    if not isinstance(bound, dict) or any(bound.get(name) != headers.get(name) for name in ("task", "id")):
        raise SigningFailed(f"it was signed for another call: {str(bound)[:200]}")


def _trusted_paths(trusted: str) -> list[Path]:
    place = Path(trusted)
    if place.is_dir():
        paths = sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
    else:
        paths = [Path(found) for found in sorted(glob.glob(trusted))]  # noqa: PTH207  # the pattern may be absolute
    if not paths:
        raise SigningFailed(f"{trusted} holds no certificate: nobody could be believed")
    return paths


def _read(path: Path, what: str, make: Any) -> Any:
    from celery.exceptions import SecurityError

    try:
        return make(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SigningFailed(f"{path} can't be read: {reason}") from error
    except (SecurityError, ValueError, TypeError) as error:
        # Of a key nothing is quoted: neither its bytes nor what a parser says about them.
        raise SigningFailed(f"{path} is no usable {what}: a PEM file is needed, of RSA") from (
            None if what == "private key" else error
        )
