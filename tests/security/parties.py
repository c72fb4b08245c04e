"""Certificates made on the spot: of servers and their callers for TLS, of parties that sign messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from fedqueue.signing import SigningFiles


@dataclass(frozen=True)
class Pair:
    """A certificate with its key, as files that servers of other users may read."""

    certificate: Path
    key: Path


class Authority:
    """An authority of its own, whose certificate is at `file`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._authority = trustme.CA()
        self.file = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    def pair(self, name: str, *identities: str) -> Pair:
        """A certificate for those host names or addresses."""
        issued = self._authority.issue_cert(*identities, common_name=name)
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        issued.private_key_pem.write_to_path(str(pair.key))
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        pair.key.chmod(0o644)
        return pair


class Parties:
    """Parties that sign: the hub and its clients, and those whom it trusts in `trusted`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trusted = folder / "trusted"
        self.trusted.mkdir(parents=True)
        self._authority = trustme.CA(key_type=trustme.KeyType.RSA)

    def party(self, name: str, *, trusted: bool = True, expired: bool = False) -> SigningFiles:
        """A party's files; trusted by everybody if `trusted`; `expired` since yesterday."""
        end = datetime.now(UTC) - timedelta(days=1) if expired else None
        issued = self._authority.issue_cert(name, key_type=trustme.KeyType.RSA, not_after=end)
        files = SigningFiles(self.folder / f"{name}.key", self.folder / f"{name}.pem", str(self.trusted))
        issued.private_key_pem.write_to_path(str(files.key))
        issued.cert_chain_pems[0].write_to_path(str(files.certificate))
        if trusted:
            issued.cert_chain_pems[0].write_to_path(str(self.trusted / f"{name}.pem"))
        return files


def variables_of(files: SigningFiles) -> dict[str, str]:
    """The settings of a hub or client that signs by them."""
    return {
        "FEDQUEUE_SIGNING_KEY": str(files.key),
        "FEDQUEUE_SIGNING_CERTIFICATE": str(files.certificate),
        "FEDQUEUE_SIGNING_TRUSTED_CERTIFICATES": files.trusted,
    }
