"""synthetic(1, 1): devices whose data differ in what is seen, in what it means, and in how much of it there is.

Source: Li et al., Federated Optimization in Heterogeneous Networks (FedProx), MLSys 2020, section 5.1: device k labels
x by argmax(softmax(W_k x + b_k)), where the elements of W_k and b_k are N(u_k, 1) and u_k is N(0, alpha); its x are
N(v_k, diag(j^-1.2)), where the elements of v_k are N(B_k, 1) and B_k is N(0, beta). So alpha says how much the devices'
labels disagree, and beta how much their inputs do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

DEVICES: Final = 30
FEATURES: Final = 60
CLASSES: Final = 10
ALPHA: Final = 1.0
BETA: Final = 1.0

# Sizes follow a power law: a share of 50 / s of the devices has more than s examples.
_SMALLEST: Final = 50
_LARGEST: Final = 5_000

_SHARE_TO_TRAIN: Final = 0.8
_MOST_EPOCHS: Final = 20


@dataclass(frozen=True)
class Device:
    """One participant. Shapes: features (examples, 60), labels (examples,)."""

    features: Floats
    labels: Labels
    test_features: Floats
    test_labels: Labels
    epochs: int  # passes over its data before it reports: some devices are faster than others

    @property
    def num_examples(self) -> int:
        """How many it trains on."""
        return len(self.labels)


def synthetic(seed: int, devices: int = DEVICES) -> list[Device]:
    """The devices: the same ones for the same seed."""
    draw = np.random.default_rng([seed, 0])
    deviations = np.sqrt(np.arange(1, FEATURES + 1) ** -1.2)
    made = []
    for _ in range(devices):
        size = min(_LARGEST, int(_SMALLEST / (1 - draw.random())))
        labelling = draw.normal(0, np.sqrt(ALPHA))
        weights = draw.normal(labelling, 1, (FEATURES, CLASSES))
        bias = draw.normal(labelling, 1, CLASSES)
        centre = draw.normal(draw.normal(0, np.sqrt(BETA)), 1, FEATURES)
        features = draw.normal(centre, deviations, (size, FEATURES))
        labels = (features @ weights + bias).argmax(axis=1)
        cut = int(_SHARE_TO_TRAIN * size)
        made.append(
            Device(
                features=features[:cut],
                labels=labels[:cut],
                test_features=features[cut:],
                test_labels=labels[cut:],
                epochs=int(draw.integers(1, _MOST_EPOCHS + 1)),
            )
        )
    return made
