"""Labelled images, and how a participant's own lie on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worker.demo.learning import Floats, Labels


@dataclass(frozen=True)
class Examples:
    """Images as rows of 64 values in [0, 1], and the digit that each shows."""

    features: Floats
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Labels) -> Examples:
        """Those rows, in that order."""
        return Examples(self.features[rows], self.labels[rows])

    def save(self, path: Path) -> None:
        """Write them as .npz, which `load` reads."""
        np.savez(path, features=self.features, labels=self.labels)

    @classmethod
    def load(cls, path: Path) -> Examples:
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["features"], arrays["labels"])
