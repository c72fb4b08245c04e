"""Every aggregate made again from the bucket alone, as `python -m worker verify` makes one."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

from tasks.domain.provenance import Verdict, verify
from tasks.hub import Hub
from worker.bootstrap import build_metadata, build_model_data
from worker.demo.play import Options, demo_settings


def identical_aggregates(options: Options) -> int:
    """How many of the model's aggregates come out with the same bytes. No hub may run on its database any more."""
    with tempfile.TemporaryDirectory(prefix="fedqueue-copies-") as copies:
        # Not the workers' folder of copies: what is read shall come from the bucket.
        settings = demo_settings(options).model_copy(update={"cache_folder": Path(copies)})
        metadata = build_metadata(settings)
        with closing(metadata):
            hub = Hub(settings, metadata, build_model_data(settings, metadata), send=lambda *_: None, worker="judge")
            model = metadata.pull_federated_model_w_id(options.model_id)
            assert model is not None, "the judge has found it there"
            aggregates = metadata.pull_model_aggregates(model, limit=options.rounds)
            return sum(verify(hub, aggregate).verdict is Verdict.IDENTICAL for aggregate in aggregates)
