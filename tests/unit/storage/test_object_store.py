"""The bucket store: what it keeps and gives back, what it takes in and refuses, what it clears away."""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest

from connectors.errors import BlobMissing, ModelDataError, ReferenceRefused, StoreMisconfigured, StoreUnavailable
from connectors.records import BlobRef, DataFormat, FederatedModel, ModelUpdate, ReasonCode
from connectors.storage import FileModelDataConnector, Limits
from connectors.storage.object_connector import ObjectModelDataConnector
from fedqueue.blobs import STORE_MARK, blob_path
from fedqueue.buckets import Bucket, ObjectMissing, blob_key
from tests.buckets import forget_everything, make_bucket, s3_server
from tests.servers import Server

MODEL = FederatedModel(id=1, uuid=UUID(int=1))
_AGE = 1.0  # seconds after which blobs are old: S3 counts whole ones
_LARGE = 12 << 20  # goes up in parts


@pytest.fixture
def store(url: str, tmp_path: Path) -> ObjectModelDataConnector:
    return a_store(url, tmp_path / "cache")


def a_store(url: str, cache: Path, **options: object) -> ObjectModelDataConnector:
    return ObjectModelDataConnector(url, cache=cache, **{"cache_bytes": 1 << 30, **options})  # type: ignore[arg-type]


def arrays_in(store: ObjectModelDataConnector, ref: BlobRef) -> dict[str, list[float]]:
    reader = store.open(ref, DataFormat.SAFETENSORS)
    found = {name: reader.read(name, 0, int(np.prod(shape))).tolist() for name, shape, _ in reader.tensors}
    reader.close()
    return found


def a_model(store: ObjectModelDataConnector, *values: float) -> BlobRef:
    data = store.prep_model_data_for_storage({"w": np.asarray(values)}, DataFormat.SAFETENSORS)
    return store.push_model_data_to_storage(MODEL, data)


def names_none(_: Sequence[str]) -> set[str]:
    return set()


def test_what_is_stored_is_read_on_another_machine(store: ObjectModelDataConnector, url: str, tmp_path: Path) -> None:
    ref = a_model(store, 1.0, 2.0)
    assert ref.uri == f"{url}/{blob_key(ref.digest)}"
    elsewhere = a_store(url, tmp_path / "elsewhere")
    assert arrays_in(elsewhere, ref) == {"w": [1.0, 2.0]}
    assert sha256(elsewhere.pull_bytes(ref, 1 << 20)).hexdigest() == ref.digest
    update = ModelUpdate(1, 1, 1, UUID(int=1), UUID(int=2), payload_digest="", num_examples=1.0, data=ref)
    [(found, reader)] = elsewhere.pull_model_updates_data([update])
    assert (found, reader.tensors[0][0]) == (update, "w")


@pytest.mark.parametrize("size", [100, _LARGE])
def test_what_a_writer_commits_is_whole(store: ObjectModelDataConnector, url: str, tmp_path: Path, size: int) -> None:
    values = np.random.default_rng(1).standard_normal(size // 4).astype(np.float32)
    for _ in range(2):  # the same bytes again are stored once
        with store.writer([("w", values.shape, "F32")], DataFormat.SAFETENSORS) as writer:
            writer.write("w", 0, values)
            ref = writer.commit()
    reader = a_store(url, tmp_path / "elsewhere").open(ref, DataFormat.SAFETENSORS)
    assert np.array_equal(reader.read("w", 0, values.size), values)
    assert len(list(Bucket(url).list("sha256"))) == 1


def test_a_writer_without_a_commit_leaves_nothing(store: ObjectModelDataConnector, url: str) -> None:
    with store.writer([("w", (1,), "F32")], DataFormat.SAFETENSORS) as writer:
        writer.write("w", 0, np.ones(1, np.float32))
    assert list(Bucket(url).list("sha256")) == []


def test_a_numpy_file_becomes_a_blob_of_the_models_format(store: ObjectModelDataConnector, tmp_path: Path) -> None:
    np.savez(tmp_path / "update.npz", w=np.ones(2, np.float32))
    sent = store.push_model_data_to_storage(MODEL, (tmp_path / "update.npz").read_bytes())
    kept = store.normalise(sent, DataFormat.SAFETENSORS)
    assert kept.digest != sent.digest
    assert arrays_in(store, kept) == {"w": [1.0, 1.0]}
    assert store.normalise(kept, DataFormat.SAFETENSORS) == kept


# --- what comes from outside --------------------------------------------------------------------------------------


def test_an_upload_by_a_signed_url_is_taken_in_and_gone(store: ObjectModelDataConnector, url: str) -> None:
    put, uri = store.sign_upload(60)
    request = urllib.request.Request(put, data=b"model", method="PUT", headers={"Content-Type": "application/binary"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
    ref = store.take_in(uri, sha256(b"model").hexdigest())
    assert ref == BlobRef(f"{url}/{blob_key(ref.digest)}", sha256(b"model").hexdigest(), 5)
    assert list(Bucket(url).list("incoming")) == []
    with urllib.request.urlopen(store.sign_download(ref, 60), timeout=30) as answer:
        assert answer.read() == b"model"


def test_an_upload_that_was_taken_in_before_is_not_missing(store: ObjectModelDataConnector, url: str) -> None:
    """Its task was killed before the row was written, and comes again."""
    Bucket(url).put("incoming/one", b"model")
    digest = sha256(b"model").hexdigest()
    first = store.take_in(f"{url}/incoming/one", digest)
    assert store.take_in(f"{url}/incoming/one", digest) == first
    with pytest.raises(BlobMissing, match="incoming/one"):
        store.take_in(f"{url}/incoming/one", "0" * 64)
    Bucket(url).put("incoming/two", b"model")
    assert [store.take_in(f"{url}/incoming/two", None) for _ in range(2)] == [first, first]


def test_what_lies_in_the_store_is_checked_once_more(store: ObjectModelDataConnector, url: str, tmp_path: Path) -> None:
    ref = a_model(store, 1.0)
    assert store.take_in(ref.uri, ref.digest) == ref
    Bucket(url).put(blob_key(ref.digest), b"something else")
    # Whatever copy a worker has: what is submitted, and what is verified, is what the bucket holds.
    for one in (store, a_store(url, tmp_path / "elsewhere")):
        with pytest.raises(ModelDataError) as caught:
            one.take_in(ref.uri, ref.digest)
        assert caught.value.reason_code is ReasonCode.CORRUPT


def test_other_bytes_than_were_sent_are_refused(store: ObjectModelDataConnector, url: str) -> None:
    Bucket(url).put("incoming/one", b"model")
    with pytest.raises(ModelDataError) as caught:
        store.take_in(f"{url}/incoming/one", "0" * 64)
    assert caught.value.reason_code is ReasonCode.CORRUPT
    assert list(Bucket(url).list("sha256")) == []


def test_what_is_too_large_is_not_even_read(url: str, tmp_path: Path) -> None:
    store = a_store(url, tmp_path / "cache", limits=Limits(max_bytes=1000))
    Bucket(url).put("incoming/one", bytes(1001))
    with pytest.raises(ModelDataError) as caught:
        store.take_in(f"{url}/incoming/one", None)
    assert caught.value.reason_code is ReasonCode.TOO_LARGE
    assert not list((tmp_path / "cache/staging").glob("*"))


def test_other_buckets_and_folders_are_read_if_they_are_configured(url: str, server: Server, tmp_path: Path) -> None:
    make_bucket(server, name := f"uploads-{uuid4().hex}")
    Bucket(f"s3://{name}/a").put("one", b"model")
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads/two").write_bytes(b"model")
    roots = [f"s3://{name}/a", tmp_path / "uploads"]
    store = a_store(url, tmp_path / "cache", outside_roots=roots)
    digest = sha256(b"model").hexdigest()
    for uri in (f"s3://{name}/a/one", (tmp_path / "uploads/two").as_uri()):
        assert store.take_in(uri, digest).uri == f"{url}/{blob_key(digest)}"
    assert Bucket(f"s3://{name}/a").head("one").size == 5  # theirs is not ours to delete
    with pytest.raises(ReferenceRefused):
        a_store(url, tmp_path / "cache").take_in(f"s3://{name}/a/one", digest)


def test_a_store_of_files_reads_configured_buckets_as_well(url: str, tmp_path: Path) -> None:
    Bucket(url).put("uploads/one", b"model")
    store = FileModelDataConnector(tmp_path / "store", outside_roots=[url], limits=Limits(max_bytes=5))
    digest = sha256(b"model").hexdigest()
    assert store.take_in(f"{url}/uploads/one", None) == BlobRef(
        blob_path(tmp_path / "store", digest).as_uri(), digest, 5
    )
    with pytest.raises(BlobMissing):
        store.take_in(f"{url}/uploads/two", None)
    for reference in ("{url}/../x", "{url}-other/x", "s3://other/x", "{url}"):
        with pytest.raises(ReferenceRefused):
            store.take_in(reference.format(url=url), None)
    Bucket(url).put("uploads/two", b"models")
    for name, claimed, reason in (("two", None, ReasonCode.TOO_LARGE), ("one", "0" * 64, ReasonCode.CORRUPT)):
        with pytest.raises(ModelDataError) as caught:
            store.take_in(f"{url}/uploads/{name}", claimed)
        assert caught.value.reason_code is reason
    assert [path.name for path in (tmp_path / "store").rglob("*") if path.is_file()] == [digest]


def test_the_store_may_lie_in_a_bucket_that_is_read(url: str, tmp_path: Path) -> None:
    """As in a deployment's media bucket: what is the store's is read as such, what is beside it is copied in."""
    Bucket(url).put("model_updates/one", b"model")
    store = a_store(f"{url}/fedqueue", tmp_path / "cache", outside_roots=[url])
    ref = store.take_in(f"{url}/model_updates/one", None)
    assert ref.uri == f"{url}/fedqueue/{blob_key(ref.digest)}"
    assert store.take_in(ref.uri, None) == ref
    with pytest.raises(ReferenceRefused):
        store.take_in(f"{url}/fedqueue/held/{ref.digest}", None)
    with pytest.raises(BlobMissing):
        store.take_in(f"{url}/model_updates/two", None)


@pytest.mark.parametrize(
    "reference",
    [
        "{url}/../{digest}",
        "{url}/incoming/../sha256/ab",
        "{url}/incoming/%2e%2e/x",
        "{url}/incoming//x",
        "{url}/held/{digest}",
        "{url}/sha256/00/{digest}",
        "{url}-other/incoming/x",
        "s3://other/incoming/x",
        "https://example.org/x",
        "file:///etc/passwd",
        "{url}/incoming/x?versionId=1",
        "{url}",
    ],
)
def test_a_reference_to_anything_else_is_refused(store: ObjectModelDataConnector, url: str, reference: str) -> None:
    digest = a_model(store, 1.0).digest
    with pytest.raises(ReferenceRefused):
        store.take_in(reference.format(url=url, digest=digest), None)


def test_a_digest_that_is_none_is_refused(store: ObjectModelDataConnector, url: str) -> None:
    with pytest.raises(ReferenceRefused):
        store.take_in(f"{url}/incoming/x", "../../etc/passwd")
    with pytest.raises(BlobMissing):
        store.open(BlobRef(url, "../../etc/passwd", 1), DataFormat.SAFETENSORS)


# --- a store that is away -----------------------------------------------------------------------------------------


def test_a_missing_blob_is_told_from_a_store_that_is_away(url: str, server: Server, tmp_path: Path) -> None:
    lost = "0" * 64
    store = a_store(url, tmp_path / "cache", named=lambda: [lost])
    with pytest.raises(StoreUnavailable, match="is away"):
        store.pull_bytes(BlobRef(f"{url}/x", lost, 1), 10)
    Bucket(url).put(STORE_MARK, b"")  # an operator says that it is lost for good
    with pytest.raises(BlobMissing):
        store.pull_bytes(BlobRef(f"{url}/x", lost, 1), 10)


def test_a_bucket_that_goes_while_it_is_used_is_away(tmp_path: Path) -> None:
    with s3_server(tmp_path) as server:
        make_bucket(server, "models")
        named: list[str] = []
        store = a_store("s3://models", tmp_path / "cache", named=lambda: named)
        ref = a_model(store, 1.0)
        named.append(ref.digest)
        forget_everything(server)
        blob_path(tmp_path / "cache", ref.digest).unlink()
        with pytest.raises(StoreUnavailable):
            store.open(ref, DataFormat.SAFETENSORS)
        make_bucket(server, "models")  # an empty one in its place
        with pytest.raises(StoreUnavailable, match="is away"):
            store.open(ref, DataFormat.SAFETENSORS)


def test_a_file_beside_the_store_is_not_missing_while_their_bucket_is_away(tmp_path: Path) -> None:
    """A bucket that is gone has no object, either: an update of FMA's would be condemned for it."""
    with s3_server(tmp_path) as server:
        make_bucket(server, "models")
        named: list[str] = []
        store = a_store("s3://models/fedqueue", tmp_path / "cache", outside_roots=["s3://models"], named=lambda: named)
        Bucket("s3://models").put("one", b"model")
        named.append(store.take_in("s3://models/one", None).digest)
        forget_everything(server)
        with pytest.raises(StoreUnavailable):
            store.take_in("s3://models/one", None)


def test_a_server_that_is_away_is_no_fault_of_the_data(tmp_path: Path) -> None:
    with s3_server(tmp_path) as server:
        make_bucket(server, "models")
        store = a_store("s3://models", tmp_path / "cache")
        store.check()
        server.kill()
        for used in (store.check, lambda: store.take_in("s3://models/incoming/x", None), lambda: a_model(store, 1.0)):
            with pytest.raises(StoreUnavailable):
                used()


# --- garbage ------------------------------------------------------------------------------------------------------


def test_old_blobs_that_no_row_names_are_collected(store: ObjectModelDataConnector, url: str) -> None:
    named, unnamed, held = (a_model(store, value) for value in (1.0, 2.0, 3.0))
    Bucket(url).put("incoming/left", b"never named")
    time.sleep(_AGE + 1.1)
    young = a_model(store, 4.0)
    store.hold(held)
    assert store.collect_garbage(_AGE, lambda digests: {named.digest} & set(digests)) == 1
    left = {blob.key.rpartition("/")[2] for blob in Bucket(url).list("sha256")}
    assert left == {named.digest, held.digest, young.digest}
    assert list(Bucket(url).list("incoming")) == []
    time.sleep(_AGE + 1.1)
    store.collect_garbage(_AGE, lambda digests: {named.digest} & set(digests))
    with pytest.raises(ObjectMissing):
        Bucket(url).head(f"trash/{unnamed.digest}")


def test_nothing_beside_the_store_is_collected(url: str, tmp_path: Path) -> None:
    """Not even where it looks like the store's own: the bucket is FMA's, too."""
    store = a_store(f"{url}/fedqueue", tmp_path / "cache", outside_roots=[url])
    digest = a_model(store, 1.0).digest
    theirs = ["model_updates/one", f"held/{digest}", "incoming/one", "trash/one", blob_key(digest)]
    theirs += [f"fedqueue-2/{blob_key(digest)}", "fedqueue-2/incoming/one", f"fedqueue2/{blob_key(digest)}"]
    for key in theirs:
        Bucket(url).put(key, b"theirs")
    time.sleep(_AGE + 1.1)
    assert store.collect_garbage(_AGE, names_none) == 1
    time.sleep(_AGE + 1.1)
    store.collect_garbage(_AGE, names_none)
    assert all(b"".join(Bucket(url).read(key)) == b"theirs" for key in theirs)


def test_bytes_that_are_stored_anew_are_young_again(store: ObjectModelDataConnector) -> None:
    ref = a_model(store, 1.0)
    time.sleep(_AGE + 1.1)
    assert a_model(store, 1.0) == ref
    assert store.collect_garbage(_AGE, names_none) == 0
    store.hold(ref)


def test_what_was_taken_aside_comes_back_for_whoever_misses_it(
    store: ObjectModelDataConnector, url: str, tmp_path: Path
) -> None:
    ref = a_model(store, 1.0)
    time.sleep(_AGE + 1.1)
    assert store.collect_garbage(_AGE, names_none) == 1
    elsewhere = a_store(url, tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match="out of reach"):
        elsewhere.open(ref, DataFormat.SAFETENSORS)
    assert arrays_in(elsewhere, ref) == {"w": [1.0]}  # as a task finds that comes back


def test_a_row_written_while_its_blob_is_taken_aside_saves_it(store: ObjectModelDataConnector, url: str) -> None:
    ref = a_model(store, 1.0)
    time.sleep(_AGE + 1.1)
    asked: list[Sequence[str]] = []

    def is_named(digests: Sequence[str]) -> set[str]:
        asked.append(digests)
        return set() if len(asked) <= 1 else {ref.digest}

    assert store.collect_garbage(_AGE, is_named) == 0
    assert Bucket(url).head(blob_key(ref.digest)).size == ref.size_bytes


def test_a_collector_killed_amid_its_work_loses_nothing(store: ObjectModelDataConnector, url: str) -> None:
    ref = a_model(store, 1.0)
    Bucket(url).move(blob_key(ref.digest), f"trash/{ref.digest}")  # where it was killed
    store.collect_garbage(_AGE, lambda digests: set(digests))
    assert Bucket(url).head(blob_key(ref.digest)).size == ref.size_bytes


def test_a_blob_that_was_collected_can_not_be_held(store: ObjectModelDataConnector, url: str) -> None:
    ref = a_model(store, 1.0)
    Bucket(url).delete(blob_key(ref.digest))
    with pytest.raises(StoreUnavailable):
        store.hold(ref)


# --- the folder of copies -----------------------------------------------------------------------------------------


def test_the_folder_of_copies_stays_within_its_limit(url: str, tmp_path: Path) -> None:
    store = a_store(url, tmp_path / "cache", cache_bytes=5000)
    refs = [a_model(store, *np.full(100, value)) for value in range(20)]
    total = sum(path.stat().st_size for path in (tmp_path / "cache/sha256").glob("*/*"))
    assert total <= 5000 + refs[0].size_bytes
    readers = [store.open(ref, DataFormat.SAFETENSORS) for ref in refs]  # a round that is larger than the folder may be
    assert [reader.read("w", 0, 1)[0] for reader in readers] == list(range(20))


def test_the_folder_of_copies_may_be_deleted(store: ObjectModelDataConnector, tmp_path: Path) -> None:
    ref = a_model(store, 1.0)
    blob_path(tmp_path / "cache", ref.digest).unlink()
    assert arrays_in(store, ref) == {"w": [1.0]}


def test_a_process_forked_too_late_is_told_so(store: ObjectModelDataConnector) -> None:
    """What obstore runs on stays in the parent: without a word a child would wait for ever."""
    a_model(store, 1.0)
    child = os.fork()
    if child == 0:
        try:
            store.check()
        except StoreUnavailable as error:
            os._exit(7 if "forked" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_bucket_that_is_not_there_is_its_owners_affair(server: Server, tmp_path: Path) -> None:
    with pytest.raises(StoreMisconfigured, match="no such bucket"):
        a_store("s3://nobody-made-this/hub", tmp_path / "cache").check()
