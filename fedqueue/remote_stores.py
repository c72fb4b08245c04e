"""The client's end of a bucket: with credentials of its own, or by URLs that the hub signs for it."""

from __future__ import annotations

import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO, Final, Protocol
from urllib.parse import parse_qs, urlsplit

from fedqueue.asking import Rests
from fedqueue.blobs import digest_of
from fedqueue.buckets import Bucket, BucketUnavailable, ObjectMissing, blob_key, is_bucket
from fedqueue.errors import StoreUnreachable
from fedqueue.messages import DataRef, UploadView
from fedqueue.payload import SharedStore, Store, checked

# In place of a store's URL: all data goes by URLs that the hub signs.
SIGNED_URLS: Final = "signed"
_SECONDS: Final = 60.0  # that a server may be silent
_TRIES: Final = 4
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_PIECE_BYTES: Final = 8 << 20


class AsksForUrls(Protocol):
    """The part of a client that asks the hub for signed URLs."""

    def upload_url(self, size_bytes: int | None = None) -> UploadView:
        """Where to put data, and how to name it then."""


def open_store(store_url: str | None, asking: AsksForUrls) -> Store:
    """The store of that URL; connects to nothing yet. Raises: ValueError for a bucket's URL that is none."""
    if store_url == SIGNED_URLS:
        return SignedStore(asking)
    if store_url is not None and is_bucket(store_url):
        return BucketStore(store_url)
    return SharedStore(store_url)


class _Staging(Store):
    """A store whose blobs are written on this machine first."""

    @contextmanager
    def _writing(self) -> Iterator[BinaryIO]:
        with tempfile.NamedTemporaryFile(prefix="fedqueue-") as file:
            yield file  # type: ignore[misc]  # the wrapper has BinaryIO's methods


class BucketStore(_Staging):
    """A bucket that this client may read and write itself."""

    def __init__(self, url: str) -> None:
        """Raises: ValueError."""
        self._bucket = Bucket(url)

    def read(self, uri: str, digest: str) -> bytearray:
        """From the bucket. Raises: StoreUnreachable, DataCorrupt."""
        buffer = bytearray()
        for piece in self._pieces(uri, digest):
            buffer += piece
        return checked(buffer, uri, digest)

    def _pieces(self, uri: str, digest: str) -> Iterator[bytes]:  # noqa: ARG002  # it lies under its digest
        try:
            yield from self._bucket.read(blob_key(digest))
        except (ObjectMissing, BucketUnavailable) as error:
            raise StoreUnreachable(str(error)) from error

    def _keep(self, file: BinaryIO, digest: str | None = None) -> DataRef:
        file.flush()
        path = Path(file.name)
        digest = digest or digest_of(path)
        try:
            self._bucket.put_blob(path, digest)
        except BucketUnavailable as error:
            raise StoreUnreachable(str(error)) from error
        return DataRef(uri=self._bucket.uri_of(blob_key(digest)), digest=digest)


class SignedStore(_Staging):
    """A bucket that this client has no credentials for."""

    wants_url = True

    def __init__(self, asking: AsksForUrls) -> None:
        self._asking = asking

    def read(self, uri: str, digest: str) -> bytearray:
        """By a URL that the hub has signed. Raises: StoreUnreachable, DataCorrupt."""
        buffer = bytearray()
        for piece in self._pieces(uri, digest):
            buffer += piece
        return checked(buffer, uri.partition("?")[0], digest)

    def _pieces(self, uri: str, digest: str) -> Iterator[bytes]:  # noqa: ARG002  # the URL is of that blob
        came = 0
        rests = _rests()
        for left in reversed(range(_TRIES)):
            # What came before a connection broke need not come again.
            rest = {"Range": f"bytes={came}-"} if came else {}
            try:
                with _asked(urllib.request.Request(_plain(uri), headers=rest)) as answer:  # noqa: S310  # by _plain
                    if answer.status == HTTPStatus.OK:
                        _pass_over(answer, came)
                    while piece := answer.read(_PIECE_BYTES):
                        came += len(piece)
                        yield piece
                    if answer.length:
                        raise _Passing(f"{came} bytes came, {answer.length} more were announced")
                return
            except _Passing:
                if not left:
                    raise
                time.sleep(rests.next())

    def _keep(self, file: BinaryIO, digest: str | None = None) -> DataRef:
        file.flush()
        path = Path(file.name)
        size = path.stat().st_size
        granted = self._asking.upload_url(size)
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        if {"sv", "sig"} <= parse_qs(urlsplit(granted.url).query).keys():
            headers["x-ms-blob-type"] = "BlockBlob"  # which Azure wants to be told, whatever its host is called

        def put() -> None:
            with path.open("rb") as data:
                request = urllib.request.Request(_plain(granted.url), data=data, method="PUT", headers=headers)  # noqa: S310
                with _asked(request):
                    pass

        _patiently(put)
        return DataRef(uri=granted.uri, digest=digest or digest_of(path))


def _plain(url: str) -> str:
    if urlsplit(url).scheme not in ("https", "http"):
        raise StoreUnreachable("the hub gave a URL that is none of http or https")
    return url


class _Passing(StoreUnreachable):
    """It may be over in a moment."""


def _patiently(ask: Callable[[], None]) -> None:
    """Ask, and some times again where that may help."""
    rests = _rests()
    for _ in range(_TRIES - 1):
        try:
            return ask()
        except _Passing:
            time.sleep(rests.next())
    return ask()


def _rests() -> Rests:
    return Rests(shortest=0.5, longest=8.0)


def _pass_over(answer: HTTPResponse, size: int) -> None:
    """Read so many bytes of it for nothing: where a server knows no ranges, all comes again."""
    while size and (piece := answer.read(min(size, _PIECE_BYTES))):
        size -= len(piece)


@contextmanager
def _asked(request: urllib.request.Request) -> Iterator[HTTPResponse]:
    place = request.full_url.partition("?")[0]  # what comes after it is the signature
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310  # http or https, by _plain
            yield answer
    except urllib.error.HTTPError as error:
        kind = _Passing if error.code in _PASSING else StoreUnreachable
        refused = ": the URL has expired, or the hub may not do this" if error.code == HTTPStatus.FORBIDDEN else ""
        raise kind(f"{place}: {error.code} {error.reason}{refused}") from error
    except (OSError, HTTPException) as error:
        raise _Passing(f"{place}: {error}") from error
