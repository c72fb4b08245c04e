"""What runs at a participant: nothing of it knows of a hub."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits_app.learning import accuracy, examples_of, train

app = ClientApp()


@app.train()
def train_here(message: Message, context: Context) -> Message:
    """Train on the participant's share."""
    partition, of = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    features, labels = examples_of(partition, of)
    given = {name: array.numpy() for name, array in message.content["arrays"].items()}
    server_round = int(message.content["config"]["server-round"])
    epochs = int(context.run_config["local-epochs"])
    parameters, loss = train(given, features, labels, epochs, seed=1000 * server_round + partition)
    metrics = {"num-examples": len(labels), "train-loss": loss, "partition-id": partition}
    record = ArrayRecord({name: Array(values) for name, values in parameters.items()})
    return Message(RecordDict({"arrays": record, "metrics": MetricRecord(metrics)}), reply_to=message)


@app.evaluate()
def evaluate_here(message: Message, context: Context) -> Message:
    """Judge the model on the participant's share."""
    partition, of = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    features, labels = examples_of(partition, of)
    given = {name: array.numpy() for name, array in message.content["arrays"].items()}
    metrics = {"num-examples": len(labels), "accuracy": accuracy(given, features, labels), "partition-id": partition}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)
