"""Peers as processes, each started once; their tests are skipped where `make peers` has not been run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.contestants import Contestant, PeerMissing


def _running(name: str) -> Iterator[Contestant]:
    try:
        contestant = Contestant(name)
    except PeerMissing as missing:
        pytest.skip(str(missing))
    with contestant:
        yield contestant


@pytest.fixture(scope="session")
def flower() -> Iterator[Contestant]:
    """Flower in its own process."""
    yield from _running("flower")


@pytest.fixture(scope="session")
def nvflare() -> Iterator[Contestant]:
    """NVIDIA FLARE in its own process."""
    yield from _running("nvflare")
