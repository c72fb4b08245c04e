"""The job: FLARE's FedAvg asks the sites, the hub aggregates. In FLARE's environment: `python job.py --model-id …`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from digits_app.learning import new_parameters
from fedqueue.nvflare import HubAnalyticsReceiver, HubFedAvg, HubModelAggregator, HubReporter
from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE
from nvflare.app_common.abstract.fl_model import ParamsType
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
from nvflare.client.config import ExchangeFormat, TransferType
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import FrameworkType, ScriptRunner


def main() -> None:
    """Run it in FLARE's simulator, to its end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-id", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--params-type", choices=[kind.value for kind in ParamsType], required=True)
    parser.add_argument("--workspace", type=Path, required=True)
    given = parser.parse_args()
    job = FedJob(name="digits", min_clients=given.sites)
    job.set_app_packages(["fedqueue", "digits_app"])
    initial = given.workspace / "initial.npz"
    initial.parent.mkdir(parents=True, exist_ok=True)
    np.savez(initial, **new_parameters(64))
    aggregator = HubModelAggregator(given.model_id, initial=str(initial))
    job.to_server(HubFedAvg(aggregator=aggregator, num_rounds=given.rounds, num_clients=given.sites, persistor_id=""))
    job.to_server(HubReporter(given.model_id))
    job.to_server(HubAnalyticsReceiver(given.model_id))
    script = ScriptRunner(
        script=str(Path(__file__).with_name("site.py")),
        script_args=f"--sites {given.sites} --params-type {given.params_type}",
        framework=FrameworkType.NUMPY,
        server_expected_format=ExchangeFormat.NUMPY,
        params_transfer_type=TransferType.FULL,
    )
    for number in range(1, given.sites + 1):
        site = f"site-{number}"
        job.to(script, site)
        job.to(ConvertToFedEvent(events_to_convert=[ANALYTIC_EVENT_TYPE]), site)
    job.simulator_run(str(given.workspace / "simulator"))


if __name__ == "__main__":
    main()
