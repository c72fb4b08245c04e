"""One participant, in FMA's environment: it knows the deployment by fma-connect alone, as it did before the hub came.

Register, fetch the newest model, train on its own digits, send the update, wait for the aggregate, send what it
measures of that; again. What the API took it writes down, for the judge.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from fma_connect import WebClient

from examples.fma.layers import from_layers, to_layers
from worker.demo.examples import Examples
from worker.demo.learning import LOCAL_EPOCHS, accuracy, train

_LOOK_EVERY: Final = 0.5
_LONGEST_WAIT: Final = 300.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Take part in so many rounds of a model."""
    options = _options(arguments)
    examples = Examples.load(options.examples)
    client = WebClient(options.model, url=options.url)
    client.register()
    with options.journal.open("a", encoding="utf-8") as journal:
        model = _newest(client)
        for number in range(options.rounds):
            parameters, _ = train(
                from_layers(model["values"]),
                examples.features,
                examples.labels,
                epochs=LOCAL_EPOCHS,
                seed=options.seed * 1_000_003 + number,
            )
            sent = client.send_update(to_layers(parameters), model["aggregate"])
            print(json.dumps({"update": sent["id"], "client": client.uuid}), file=journal, flush=True)
            model = _newest(client)
            measured = accuracy(from_layers(model["values"]), examples.features, examples.labels)
            client.send_val_results({"accuracy": measured}, model["aggregate"])


def _newest(client: WebClient) -> Any:
    """The next model that this client has not seen yet, as soon as there is one."""
    deadline = time.monotonic() + _LONGEST_WAIT
    while (model := client.check_for_latest_model()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no new model within {_LONGEST_WAIT:g} s")
        time.sleep(_LOOK_EVERY)
    return model


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.fma.participant", description=__doc__)
    parser.add_argument("--url", required=True, help="the deployment's API")
    parser.add_argument("--model", required=True, type=int, help="model id")
    parser.add_argument("--examples", required=True, type=Path, help=".npz of its digits")
    parser.add_argument("--journal", required=True, type=Path, help="file for what the API took")
    parser.add_argument("--rounds", required=True, type=int)
    parser.add_argument("--seed", required=True, type=int)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
