"""The store's references, as an attacker would try them who may write into a folder that the hub reads from."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.errors import BlobMissing, ModelDataError, ReferenceRefused, StoreUnavailable
from connectors.storage import FileModelDataConnector
from connectors.storage.limits import Limits
from connectors.storage.places import open_inside

SECRET = b"[3, 1, 4, 1, 5]"
DECOY = b"[2, 7, 1, 8, 2]"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """The folder that the attacker may write into, beside a file that is none of theirs."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_bytes(DECOY)
    (tmp_path / "secret").write_bytes(SECRET)
    return folder


@pytest.fixture
def store(tmp_path: Path, outside: Path) -> FileModelDataConnector:
    return FileModelDataConnector(tmp_path / "store", outside_roots=[outside], limits=Limits(max_bytes=1 << 20))


@pytest.mark.parametrize(
    "uri",
    [
        "file://{host}{outside}/file",
        "file://localhost@evil.example{outside}/file",
        "file://127.0.0.1{outside}/file",
        "FILE+http://{outside}/file",
        "http://169.254.169.254/latest/meta-data",
        "{outside}/file",
        "file:{outside}/../secret",
        "file://{outside}/../secret",
        "file://{outside}/%2e%2e/secret",
        "file://{outside}/%2E./secret",
        "file://{outside}/..%2Fsecret",
        "file://{outside}%2F..%2Fsecret",
        "file://{outside}/%252e%252e/secret",
        "file://{outside}/file%00.json",
        "file://{outside}/file\0",
        "file://{outside}/%00",
        "file://{outside}//../secret",
        "file://{outside}/./../secret",
        "file://{outside}x/file",
        "file://{outside}/file?x",
        "file://{outside}/file#x",
        "file:///proc/self/environ",
        "file:///dev/zero",
        "file://",
        "file:///",
        "",
        "file://{outside}",
        "file://{outside}/",
        "file://[::1{outside}/file",
        "file://{outside}/" + "a" * 300,
        "file://{outside}/" + "a/" * 3000,
        "file://{outside}/\udce4",
        "file://{outside}/%ff%fe",
    ],
    ids=lambda uri: repr(uri[:48]),
)
def test_no_spelling_leads_out(store: FileModelDataConnector, outside: Path, uri: str) -> None:
    """Refused, or, where it names nothing that is there, missing; the secret's bytes are never taken in."""
    with pytest.raises((ReferenceRefused, BlobMissing)):
        store.take_in(uri.format(outside=outside, host="evil.example"), None)
    assert not list((store.root / "sha256").rglob("*")) if (store.root / "sha256").exists() else True


@pytest.mark.parametrize("kind", ["link", "folder link", "relative link", "pipe", "socket", "folder"])
def test_what_is_no_plain_file_inside_is_refused(
    store: FileModelDataConnector, outside: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: nobody may keep a worker waiting, either."""
    trap = outside / "trap"
    if kind == "link":
        trap.symlink_to(outside.parent / "secret")
    elif kind == "relative link":
        trap.symlink_to("../secret")
    elif kind == "folder link":
        (outside / "door").symlink_to(outside.parent)
        trap = outside / "door" / "secret"
    elif kind == "pipe":
        os.mkfifo(trap)
    elif kind == "socket":
        monkeypatch.chdir(outside)  # a socket's path may be too long
        with socket.socket(socket.AF_UNIX) as line:
            line.bind("trap")
    else:
        trap.mkdir()
    began = time.monotonic()
    with pytest.raises(ReferenceRefused):
        store.take_in(f"file://{trap}", None)
    assert time.monotonic() - began < 30, "it waited for a writer"


def test_a_hard_link_gives_no_more_than_its_file(store: FileModelDataConnector, outside: Path) -> None:
    """Who can make one can open the file: the system asks for that right. It is copied, so no change reaches a blob."""
    os.link(outside.parent / "secret", outside / "hard")
    ref = store.take_in((outside / "hard").as_uri(), None)
    blob = Path(ref.uri.removeprefix("file://"))
    assert blob.stat().st_ino != (outside / "hard").stat().st_ino
    (outside / "hard").write_bytes(b"[9, 9, 9, 9, 9]")
    assert blob.read_bytes() == SECRET


def test_a_file_of_holes_is_measured_before_it_is_read(store: FileModelDataConnector, outside: Path) -> None:
    with (outside / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelDataError, match="the limit is"):
        store.take_in((outside / "huge").as_uri(), None)


def test_a_file_that_grows_while_it_is_read_is_not_followed(store: FileModelDataConnector, outside: Path) -> None:
    """Its size was within the limit when it was asked for."""
    growing = outside / "growing"
    growing.write_bytes(b"[" + b"0," * 1000)
    over = threading.Event()

    def grow() -> None:
        with growing.open("ab", buffering=0) as file:
            while not over.is_set() and file.tell() < 64 << 20:
                file.write(b"0," * (1 << 16))

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        refused = 0
        deadline = time.monotonic() + 60
        while not refused and time.monotonic() < deadline:
            try:
                assert store.take_in(growing.as_uri(), None).size_bytes <= 1 << 20
            except ModelDataError:
                refused += 1
    finally:
        over.set()
        thread.join()
    assert refused


def test_a_file_that_is_swapped_for_a_link_all_the_while_never_gives_the_secret(
    store: FileModelDataConnector, outside: Path
) -> None:
    """Between the check of a path and its opening: the folders are opened one from another, and no link is followed."""
    played = _swapping(outside / "file", outside.parent / "secret", lambda: _take(store, outside / "file"))
    assert played["taken"], "the file itself was never taken"
    assert played["refused"], "the link was never met"


def test_a_folder_that_is_swapped_for_a_link_all_the_while_never_gives_the_secret(
    store: FileModelDataConnector, outside: Path
) -> None:
    inner = outside / "inner"
    inner.mkdir()
    (inner / "secret").write_bytes(DECOY)
    played = _swapping(inner, outside.parent, lambda: _take(store, inner / "secret"))
    assert played["taken"]
    assert played["refused"]


def _take(store: FileModelDataConnector, path: Path) -> bytes:
    return Path(store.take_in(f"file://{path}", None).uri.removeprefix("file://")).read_bytes()


def _swapping(place: Path, secret: Path, take: Callable[[], bytes]) -> dict[str, int]:
    """Swap `place` and a link to `secret` for one another while `take` is called, until it has met both."""
    link, kept = place.with_name("link"), place.with_name("kept")
    link.symlink_to(secret)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            place.rename(kept)
            link.rename(place)
            place.rename(link)
            kept.rename(place)

    found = {"taken": 0, "refused": 0}
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        deadline = time.monotonic() + 120
        while min(found.values()) < 20 and time.monotonic() < deadline:
            try:
                data = take()
            except ReferenceRefused:
                found["refused"] += 1
            except (BlobMissing, StoreUnavailable):
                continue  # between two names
            else:
                assert data == DECOY, "the secret was taken in"
                found["taken"] += 1
    finally:
        over.set()
        thread.join()
    return found


def test_a_path_is_opened_only_from_its_root(outside: Path) -> None:
    for path in (outside, outside / ".." / "secret", outside.parent / "secret"):
        with pytest.raises((ReferenceRefused, ValueError)):
            os.close(open_inside(outside, path))


def test_no_descriptor_is_left_by_refusals(store: FileModelDataConnector, outside: Path) -> None:
    os.mkfifo(outside / "pipe")
    (outside / "link").symlink_to("../secret")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        for name in ("pipe", "link", "none", "file/inside", "."):
            with pytest.raises((ReferenceRefused, BlobMissing)):
                store.take_in(f"file://{outside}/{name}", None)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
