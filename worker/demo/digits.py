"""The demo's data: scikit-learn's 1,797 handwritten digits, split as unevenly as real participants' data is."""

from __future__ import annotations

from typing import Final

import numpy as np

from worker.demo.errors import DemoNeedsPackage
from worker.demo.examples import Examples
from worker.demo.learning import Labels

FEWEST_EXAMPLES: Final = 20


def load_digits(seed: int) -> tuple[Examples, Examples]:
    """(training examples, a fifth held out for testing), shuffled by the seed. Raises: DemoNeedsPackage."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DemoNeedsPackage("scikit-learn") from error
    digits = datasets.load_digits()
    every = Examples((digits.data / 16).astype(np.float32), digits.target.astype(np.int64))
    order = np.random.default_rng(seed).permutation(len(every))
    held_out = len(every) // 5
    return every.take(order[held_out:]), every.take(order[:held_out])


def split_unevenly(examples: Examples, participants: int, seed: int, *, concentration: float = 0.3) -> list[Examples]:
    """Every example to one participant; each digit's shares are drawn from a Dirichlet distribution.

    At 0.3 most participants hardly know some digits. Drawn again until everybody has FEWEST_EXAMPLES.
    Source: Hsu, Qi and Brown, 2019, Measuring the Effects of Non-Identical Data Distribution.
    """
    draw = np.random.default_rng([seed, 1])
    fewest = min(FEWEST_EXAMPLES, len(examples) // (2 * participants))
    while True:
        parts: list[list[Labels]] = [[] for _ in range(participants)]
        for label in np.unique(examples.labels):
            rows = draw.permutation(np.flatnonzero(examples.labels == label))
            shares = draw.dirichlet(np.full(participants, concentration))
            cuts = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)
            for part, piece in zip(parts, np.split(rows, cuts), strict=True):
                part.append(piece)
        owned = [np.concatenate(part) for part in parts]
        if min(map(len, owned)) >= fewest:
            return [examples.take(rows) for rows in owned]
