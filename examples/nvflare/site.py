"""What runs at a site, by FLARE's client API: nothing of it knows of a hub."""

from __future__ import annotations

import argparse

import nvflare.client as flare
from digits_app.learning import accuracy, examples_of, train
from nvflare.apis.analytix import AnalyticsDataType
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType


def main() -> None:
    """Train on the site's share, each time that the server asks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--params-type", choices=[kind.value for kind in ParamsType], required=True)
    given = parser.parse_args()
    flare.init()
    partition = int(flare.get_site_name().rpartition("-")[2]) - 1
    features, labels = examples_of(partition, given.sites)
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        start = model.params
        before = accuracy(start, features, labels)
        seed = 1000 * (model.current_round or 0) + partition
        parameters, loss = train(start, features, labels, epochs=2, seed=seed)
        flare.log("train loss", loss, AnalyticsDataType.SCALAR, global_step=(model.current_round or 0) + 1)
        if given.params_type == ParamsType.DIFF.value:
            parameters = {name: parameters[name] - start[name] for name in parameters}
        flare.send(
            FLModel(
                params_type=ParamsType(given.params_type),
                params=parameters,
                metrics={"accuracy": before},
                meta={"NUM_STEPS_CURRENT_ROUND": len(labels)},
            )
        )


if __name__ == "__main__":
    main()
