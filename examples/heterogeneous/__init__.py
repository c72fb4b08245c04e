"""Four aggregators on devices that differ in everything: `python -m examples.heterogeneous`."""
