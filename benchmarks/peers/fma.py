"""What Federated Model Aggregation does with model data: JSON lists in, numpy's mean, JSON lists out.

Written anew from its published behaviour; its packages are not on the index. Runs in our own environment.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.peers.serving import Request, serve


def _average_layers(request: Request) -> None:
    with request.phase("read"):
        updates = [json.loads(Path(file).read_bytes()) for file in request.files]
    with request.phase("combine"):
        layers = [np.average(np.array(same), axis=0).tolist() for same in zip(*updates, strict=True)]
    with request.phase("write"):
        Path(request.out).write_text(json.dumps(layers))


if __name__ == "__main__":
    serve({"average_layers": _average_layers})
