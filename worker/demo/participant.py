"""One participant, a process of its own: fetch the newest model, train on its own digits, submit, wait, again.

It knows the hub by `fedqueue.Client` alone, as any other service would, and has no code for a hub that is killed:
the client's own retries see it through. What the hub accepted it writes down, for the judge.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

from fedqueue import Client
from worker.demo.examples import Examples
from worker.demo.learning import LOCAL_EPOCHS, train


def main(arguments: Sequence[str] | None = None) -> None:
    """Take part in so many rounds of a model."""
    options = _options(arguments)
    examples = Examples.load(options.examples)
    draw = random.Random(options.seed)  # noqa: S311  # a pause, no secret
    with Client(timeout=120) as hub, options.journal.open("a", encoding="utf-8") as journal:
        for _ in range(options.rounds):
            model = hub.fetch_latest(options.model)
            trained, loss = train(
                model.arrays,
                examples.features,
                examples.labels,
                epochs=LOCAL_EPOCHS,
                seed=options.seed * 1_000_003 + model.number,
            )
            time.sleep(draw.uniform(0, 2 * options.pause))
            update = hub.submit_update(
                options.model,
                options.client,
                trained,
                num_examples=len(examples),
                base_aggregate=model.aggregate_id,
                metrics={"loss": loss},
            )
            accepted = {
                "submission_id": str(update.submission_id),
                "num_examples": len(examples),
                "round": model.number + 1,
            }
            print(json.dumps(accepted), file=journal, flush=True)
            hub.wait_for_aggregate(options.model, after=model.number)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.demo.participant", description=__doc__)
    parser.add_argument("--model", required=True, help="model id")
    parser.add_argument("--client", required=True, help="client id")
    parser.add_argument("--examples", required=True, type=Path, help=".npz of its digits")
    parser.add_argument("--journal", required=True, type=Path, help="file for what the hub has accepted")
    parser.add_argument("--rounds", required=True, type=int)
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--pause", type=float, default=0.0, help="mean seconds between training and submission")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
