"""One bucket's objects: written whole or not at all, read to the end, and what is said of one that can't be used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from fedqueue.buckets import Bucket, BucketMisconfigured, BucketUnavailable, ObjectMissing, blob_key
from tests.buckets import CREDENTIALS, unfinished_uploads
from tests.hubs import ROOT
from tests.proxy import Proxy, proxy_to
from tests.servers import Server
from tests.stub_server import Stub, stub_server

_LARGE = 24 << 20  # goes up in parts, and comes in several pieces


@pytest.fixture
def bucket(url: str) -> Bucket:
    return Bucket(url)


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy_to(server.url) as between:
        monkeypatch.setenv("AWS_ENDPOINT", between.url(server.url))
        yield between


def a_file(folder: Path, size: int) -> tuple[Path, str]:
    """A file, and its digest."""
    content = os.urandom(size)
    (folder / "blob").write_bytes(content)
    return folder / "blob", sha256(content).hexdigest()


# --- writing ------------------------------------------------------------------------------------------------------


def test_of_two_writers_of_one_digest_the_second_is_told(url: str, tmp_path: Path) -> None:
    """By the store, not by having looked before: both look when nothing is there."""
    path, digest = a_file(tmp_path, 1000)
    both = threading.Barrier(2)

    class Writer(Bucket):
        def head(self, key: str) -> object:  # type: ignore[override]
            both.wait(30)
            raise ObjectMissing(key)

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(Writer(url).put_blob, path, digest) for _ in range(2)]
    assert sorted(writer.result() for writer in writers) == [False, True]


def test_bytes_that_can_not_be_the_blobs_give_way(bucket: Bucket, tmp_path: Path) -> None:
    """Nobody who stores a blob may be told that it is there while something else is."""
    path, digest = a_file(tmp_path, 1000)
    bucket.put(blob_key(digest), b"half of it")
    assert not bucket.put_blob(path, digest)
    assert b"".join(bucket.read(blob_key(digest))) == path.read_bytes()


def test_a_writer_killed_amid_its_parts_leaves_no_object(
    bucket: Bucket, server: Server, proxy: Proxy, tmp_path: Path
) -> None:
    path, digest = a_file(tmp_path, _LARGE)
    name = bucket.url.split("/")[2]
    proxy.bytes_per_second = 4 << 20  # of each connection: some seconds
    code = (
        "import sys, pathlib, fedqueue.buckets as b; "
        "b.Bucket(sys.argv[1]).put_blob(pathlib.Path(sys.argv[2]), sys.argv[3])"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, bucket.url, str(path), digest], cwd=ROOT)
    until = time.monotonic() + 30
    while not unfinished_uploads(server, name) and time.monotonic() < until:
        time.sleep(0.02)
    writer.send_signal(signal.SIGKILL)
    writer.wait(30)
    assert unfinished_uploads(server, name) == [f"hub/{blob_key(digest)}"]  # what the bucket's lifecycle rule is for
    assert list(bucket.list("sha256")) == []
    proxy.bytes_per_second = float("inf")
    assert not bucket.put_blob(path, digest)
    assert b"".join(bucket.read(blob_key(digest))) == path.read_bytes()


# --- reading ------------------------------------------------------------------------------------------------------


def test_a_reading_that_breaks_off_goes_on_where_it_was(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    path, digest = a_file(tmp_path, _LARGE)
    bucket.put_blob(path, digest)
    proxy.bytes_per_second = 16 << 20
    read = bytearray()
    cuts = 0
    for piece in bucket.read(blob_key(digest)):
        read += piece
        if cuts < 2:
            cuts += proxy.cut()
    assert cuts == 2
    assert read == path.read_bytes()


# --- a store that is away -----------------------------------------------------------------------------------------


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    with stub_server() as running:
        for variable, value in {**CREDENTIALS, "AWS_ENDPOINT": running.url}.items():
            monkeypatch.setenv(variable, value)
        yield running


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_fails_now_and_then_is_asked_again(stub: Stub, tmp_path: Path, status: int) -> None:
    path, digest = a_file(tmp_path, 1000)
    stub.failures = [404, status, status]  # to the look whether it is there, then to the writing
    assert not Bucket("s3://models").put_blob(path, digest)
    assert [method for method, _ in stub.asked] == ["HEAD", "PUT", "PUT", "PUT"]


def test_a_server_that_goes_on_failing_is_away(stub: Stub) -> None:
    stub.failures = [503] * 100
    with pytest.raises(BucketUnavailable) as caught:
        Bucket("s3://models").head("x")
    assert not isinstance(caught.value, BucketMisconfigured)
    assert len(stub.asked) == 4


def test_an_upload_that_fails_takes_its_parts_back(stub: Stub, tmp_path: Path) -> None:
    path, digest = a_file(tmp_path, _LARGE)
    stub.failures = [404, *[403] * 20]
    with pytest.raises(BucketMisconfigured):
        Bucket("s3://models").put_blob(path, digest)
    assert ("DELETE", "uploadId=7") in stub.asked


def test_a_hold_does_not_wait_long_for_a_store_that_is_away(stub: Stub) -> None:
    """It is called with a model's row locked."""
    stub.failures = [503] * 100
    began = time.monotonic()
    with pytest.raises(BucketUnavailable):
        Bucket("s3://models", is_prompt=True).put("held/x", b"")
    assert time.monotonic() - began < 6
    assert len(stub.asked) == 2


# --- what its owner must see to -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_bucket_that_lets_nobody_in_is_told_from_one_that_is_away(stub: Stub, status: int) -> None:
    stub.failures = [status]
    with pytest.raises(BucketMisconfigured, match=r"s3://models refuses access.*AWS_"):
        Bucket("s3://models").head("x")


def test_a_bucket_that_is_not_there_can_not_be_written(server: Server) -> None:
    with pytest.raises(BucketMisconfigured, match="no such bucket"):
        Bucket("s3://nobody-made-this/hub").put("x", b"")


def test_what_is_missing_in_the_providers_variables_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith("AZURE_"):
            monkeypatch.delenv(variable)
    with pytest.raises(BucketMisconfigured, match=r"az://models.*[Aa]ccount.*AZURE_"):
        Bucket("az://models/hub").head("x")


def test_a_file_of_credentials_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "missing.json"))
    with pytest.raises(BucketMisconfigured, match=r"gs://models.*missing\.json.*GOOGLE_"):
        Bucket("gs://models/hub").head("x")


@pytest.mark.parametrize(
    ("url", "store", "variables"),
    [
        ("s3://models/hub", "S3Store", {}),
        ("gs://models/hub", "GCSStore", {}),
        ("az://models/hub", "AzureStore", {"AZURE_STORAGE_ACCOUNT_NAME": "hubs", "AZURE_STORAGE_ACCOUNT_KEY": "aGk="}),
    ],
)
def test_each_scheme_has_its_provider(
    url: str, store: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request is made: a URL is signed by what is known here, and Google's needs a key that nobody has here."""
    for variable, value in {**CREDENTIALS, **variables}.items():
        monkeypatch.setenv(variable, value)
    import obstore.store

    made = obstore.store.from_url(url)
    assert type(made).__name__ == store
    if store != "GCSStore":
        signed = Bucket(url).sign("PUT", "incoming/x", 3600)
        assert "/hub/incoming/x?" in signed


def test_a_signed_url_ends_when_it_was_asked_to(bucket: Bucket) -> None:
    assert "X-Amz-Expires=90&" in bucket.sign("GET", "x", 90)


def test_a_signature_is_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure's tokens travel in the URL of every request, and errors like to quote it."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "hubs")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2024-01-01&sig=veryhush")
    with stub_server() as stub:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", stub.url)
        monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
        stub.failures = [503] * 100
        with pytest.raises(BucketUnavailable) as caught:
            Bucket("az://models").head("x")
    assert any("sig=veryhush" in query for _, query in stub.asked)
    assert "veryhush" not in str(caught.value)
