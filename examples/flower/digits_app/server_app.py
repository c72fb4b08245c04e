"""The ServerApp: Flower's FedAvg chooses and evaluates, the hub aggregates. Two lines differ from plain Flower."""

from __future__ import annotations

import json
import time
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy

from digits_app.learning import accuracy, new_parameters, test_examples
from fedqueue.flower import HubStrategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for the configured number of rounds; write each round's accuracy and the time at which it was known."""
    config = context.run_config
    judged: dict[int, dict[str, float]] = {}

    def judge(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        found = accuracy({name: array.numpy() for name, array in arrays.items()}, *test_examples())
        judged[server_round] = {"accuracy": found, "at": time.monotonic()}
        return MetricRecord({"accuracy": found})

    strategy: Strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.5)
    if config["bridge"] != "none":
        strategy = HubStrategy(
            strategy,
            model_id=str(config["model-id"]),
            observe_only=config["bridge"] == "observe",
            aggregator=str(config["aggregator"]),
        )
    strategy.start(
        grid,
        ArrayRecord({name: Array(values) for name, values in new_parameters(int(config["hidden-units"])).items()}),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=judge,
    )
    if config["out"]:
        Path(str(config["out"])).write_text(json.dumps(judged), encoding="utf-8")
