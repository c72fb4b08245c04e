"""A plugin for workers under test: the plain mean, which holds its round for as long as the file HELD_ROUNDS exists.

It is an aggregator as any third party may write one (docs/extend.md): a round under way can so be met, not guessed at.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from tasks.aggregation import Aggregator, AggregatorParams, Needs, register
from tests.chaos.held import AGGREGATOR, VARIABLE, holding


def _needs(params: AggregatorParams, inputs: Any) -> Needs:
    return Needs(tuple(update.num_examples for update in inputs.updates), arrays=3)


def _mean(params: AggregatorParams, needs: Needs, chunk: Any) -> Any:
    hold = Path(os.environ[VARIABLE])
    mine = holding(hold, os.getpid())
    while hold.exists():
        mine.touch()
        time.sleep(0.002)
    return chunk.mean(needs.weights)


register(Aggregator(AGGREGATOR, AggregatorParams, _needs, _mean))
