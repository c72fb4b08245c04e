"""Keeping a claim while its round is combined: renewed by the work itself, and beside it where that can't."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import structlog

from connectors.errors import ClaimLost, Unavailable
from connectors.records import Claim
from tasks.domain.claiming import lease_ms
from tasks.hub import Hub

_log = structlog.get_logger(__name__)


class LeaseKeeper:
    """Renews a claim every third of its lease while the work goes on, and stops the work when the claim is lost.

    Within its block a thread stands by, which renews only during `storing()`: what hangs while it computes loses its
    claim, and what waits for the store keeps it for as long as the task's time limit allows.
    """

    def __init__(
        self, hub: Hub, claim: Claim, sizes: Sequence[int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._hub = hub
        self._claim = claim
        self._sizes = sizes
        self._clock = clock
        self._renewed = clock()
        self._bytes = 0
        self._is_storing = False
        self._lost: ClaimLost | None = None
        self._ending = threading.Event()
        self._beside = threading.Thread(target=self._stand_by, name="lease-keeper", daemon=True)

    def __enter__(self) -> Self:
        self._beside.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._beside.join()

    @property
    def is_standing_by(self) -> bool:
        """Whether the claim would be kept while the store works: it is not lost, and the block has not ended."""
        return self._beside.is_alive()

    def note_bytes(self, bytes_done: int) -> None:
        """Take down how far the work has come, and keep the claim. Raises: ClaimLost."""
        self._bytes = bytes_done
        self.keep()

    def keep(self) -> None:
        """Renew the claim if a third of the lease has gone by. Raises: ClaimLost, DatabaseUnavailable."""
        self._keep()

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Around a call of the store's, which may take many leases and tells nothing meanwhile. Raises: ClaimLost."""
        self._is_storing = True
        try:
            yield
        finally:
            self._is_storing = False
        if self._lost is not None:
            raise self._lost

    def _keep(self) -> None:
        if self._clock() - self._renewed < self._hub.settings.lease_seconds / 3:
            return
        share = min(1.0, self._bytes / max(1, sum(self._sizes)))
        self._hub.metadata.transact(
            lambda _: self._hub.metadata.renew_claim(
                self._claim,
                lease_ms(self._hub),
                updates_done=int(share * len(self._sizes)),
                bytes_done=self._bytes,
            )
        )
        self._renewed = self._clock()

    def _stand_by(self) -> None:
        while not self._ending.wait(self._hub.settings.lease_seconds / 12):
            if not self._is_storing:
                continue
            try:
                self._keep()
            except ClaimLost as lost:
                self._lost = lost
                return
            except Unavailable as error:
                _log.warning("lease.not_renewed", reason=str(error))
