"""What a hub is told and publishes, shown by MLflow and TensorBoard: `python -m fedqueue.mirrors`, off by default.

It is the subscriber of the hub's notifications (docs/notifications.md), reads as any client does and writes nothing to
the hub. docs/mirrors.md has its settings. Needs mlflow or tensorboard, which this package does not bring.
"""
