"""Work done by several threads, taken in order by one: so what comes out never depends on who was quicker."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Done = TypeVar("Done")


def default_threads() -> int:
    """As many as the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    do: Callable[[Given], Done], given: Iterable[Given], threads: int, ahead: int
) -> Generator[Done, None, None]:
    """`do` of each, in the order given; never more than `ahead` begun and not yet taken.

    One thread does the work itself, when it is asked for. Left early (an error, a lost lease), what has not begun
    never does, and what has is waited for: nobody reads the updates' memory afterwards.
    """
    if threads == 1:
        yield from map(do, given)
        return
    waiting: deque[Future[Done]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="aggregation")
    try:
        for item in given:
            waiting.append(pool.submit(do, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
