"""A client without credentials: what goes by signed URLs gets there, or a typed error says why not."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import numpy as np
import pytest

from fedqueue.errors import DataCorrupt, StoreUnreachable
from fedqueue.messages import UploadView
from fedqueue.remote_stores import SignedStore
from tests.stub_server import Stub, stub_server

_SIGNED = "?X-Amz-Signature=veryhush"
_CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_server() as running:
        yield running


@pytest.fixture
def store(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> SignedStore:
    monkeypatch.setattr("fedqueue.remote_stores.time.sleep", lambda _: None)

    class Hub:
        def upload_url(self, size_bytes: int | None = None) -> UploadView:
            return UploadView(url=f"{stub.url}/incoming/1{_SIGNED}", uri="s3://models/incoming/1")

    return SignedStore(Hub())


def read(store: SignedStore, stub: Stub, content: bytes = _CONTENT) -> bytearray:
    return store.read(f"{stub.url}/sha256/1{_SIGNED}", sha256(content).hexdigest())


@pytest.mark.parametrize("failures", [[], [503, 500, 429]])
def test_data_is_put_where_the_hub_says(store: SignedStore, stub: Stub, failures: list[int]) -> None:
    stub.failures = list(failures)
    payload = store.take({"w": np.ones(3)}, "data")
    assert payload.ref is not None
    assert payload.ref.uri == "s3://models/incoming/1"
    assert payload.ref.digest == sha256(stub.content).hexdigest()
    assert len(stub.asked) == len(failures) + 1


@pytest.mark.parametrize(("query", "kind"), [(_SIGNED, None), ("?sv=2024-01-01&sr=b&sig=veryhush", "BlockBlob")])
def test_azure_is_told_what_kind_of_blob_it_is(stub: Stub, query: str, kind: str | None) -> None:
    """Without it Azure refuses the upload, also under a host name of its customer's."""

    class Hub:
        def upload_url(self, size_bytes: int | None = None) -> UploadView:
            return UploadView(url=f"{stub.url}/incoming/1{query}", uri="az://models/incoming/1")

    SignedStore(Hub()).take({"w": np.ones(3)}, "data")
    assert stub.headers[0].get("x-ms-blob-type") == kind


def test_a_model_is_read_on_where_its_connection_broke(store: SignedStore, stub: Stub) -> None:
    stub.content, stub.breaks = _CONTENT, [100_000, 50_000]
    assert read(store, stub) == _CONTENT
    assert len(stub.asked) == 3


def test_a_server_that_goes_on_failing_is_unreachable(store: SignedStore, stub: Stub) -> None:
    stub.failures = [503] * 100
    with pytest.raises(StoreUnreachable, match="503") as caught:
        read(store, stub)
    assert "veryhush" not in str(caught.value)
    assert len(stub.asked) == 4


def test_a_connection_that_breaks_off_each_time_is_said(store: SignedStore, stub: Stub) -> None:
    stub.content, stub.breaks = _CONTENT, [10] * 100
    with pytest.raises(StoreUnreachable, match="40 bytes came"):
        read(store, stub)


def test_a_url_that_has_expired_is_said_at_once_and_without_its_signature(store: SignedStore, stub: Stub) -> None:
    stub.failures = [403]
    with pytest.raises(StoreUnreachable, match=r"403.*expired") as caught:
        store.take({"w": np.ones(3)}, "data")
    assert "veryhush" not in str(caught.value)
    assert len(stub.asked) == 1


def test_other_bytes_than_the_hub_names_are_no_model(store: SignedStore, stub: Stub) -> None:
    stub.content = b"something else"
    with pytest.raises(DataCorrupt) as caught:
        read(store, stub)
    assert "veryhush" not in str(caught.value)
