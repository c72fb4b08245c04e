"""A blob's last step: on disk, then named; and named once, whoever comes second."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from connectors.storage.garbage import collect_blobs
from fedqueue.blobs import blob_path, keep_blob, new_blob


def test_a_blob_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named first, it would be there after a power cut with none of its bytes, under a digest that is not theirs."""
    synced: dict[int, int] = {}
    named: list[tuple[int, int]] = []
    fsync, link = os.fsync, os.link

    def note_sync(handle: int) -> None:
        fsync(handle)
        found = os.fstat(handle)
        synced[found.st_ino] = found.st_size

    def note_name(source: Any, target: Any) -> None:
        found = Path(source).stat()
        named.append((found.st_size, synced.get(found.st_ino, -1)))
        link(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "link", note_name)
    with new_blob(tmp_path) as file:
        file.write(b"model")
        keep_blob(tmp_path, file)
    assert named == [(5, 5)], "bytes that it had when it was named, and that were on disk by then"


def test_bytes_that_are_there_stay_the_file_they_were(tmp_path: Path) -> None:
    """Whoever reads it has it mapped: a second one with the same bytes must not take it away."""
    files = []
    for _ in range(2):
        with new_blob(tmp_path) as file:
            file.write(b"model")
            path, _digest = keep_blob(tmp_path, file)
            files.append((path, path.stat().st_ino))
    assert files[0] == files[1]
    assert path.read_bytes() == b"model"


def test_collection_leaves_what_is_no_blob_though_it_lies_where_one_would(tmp_path: Path) -> None:
    """Somebody's notes in the store's folders are not the store's to delete."""
    strange = blob_path(tmp_path, "README")
    strange.parent.mkdir(parents=True)
    strange.write_text("kept")
    os.utime(strange, (0, 0))
    assert collect_blobs(tmp_path, 600, lambda digests: set()) == 0
    assert strange.read_text() == "kept"
