"""What the parts for FLARE do, in FLARE's own environment: run there by test_nvflare.py, with a hub that really runs.

Models are FLARE's; what its controller calls, the test calls. The whole of FLARE runs in examples/nvflare.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.apis.analytix import AnalyticsDataType
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.apis.utils.analytix_utils import create_analytic_dxo
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

from fedqueue import Client, InvalidArgument, Rejected
from fedqueue.nvflare import HubAnalyticsReceiver, HubModelAggregator, HubReporter
from fedqueue.nvflare.aggregator import ResultRefused

_START = {"w": np.zeros(3, np.float32), "b": np.ones(1, np.float32)}


@pytest.fixture(scope="module")
def hub() -> Iterator[Client]:
    with Client() as client:
        yield client


@pytest.fixture
def model() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def aggregator(model: str, hub: Client) -> HubModelAggregator:
    """One whose training has begun, as HubFedAvg begins it."""
    begun = HubModelAggregator(model)
    begun.begin(lambda: _START, 3)
    return begun


def result(
    site: str, arrays: dict[str, Any], *, diff: bool = False, steps: float | None = 10, **metrics: float
) -> FLModel:
    meta: dict[str, Any] = {"client_name": site}
    if steps is not None:
        meta["NUM_STEPS_CURRENT_ROUND"] = steps
    kind = ParamsType.DIFF if diff else ParamsType.FULL
    params = {name: np.asarray(values, np.float32) for name, values in arrays.items()}
    return FLModel(params_type=kind, params=params, metrics=metrics or None, meta=meta)


def values_of(model: FLModel) -> dict[str, list[float]]:
    return {name: np.asarray(values).tolist() for name, values in model.params.items()}


def failures(hub: Client, model: str) -> str:
    return " | ".join(line.text for line in hub.iter_logs(model) if not line.success)


def until(holds: Callable[[], object]) -> None:
    """What is told is not waited for: the hub takes it in its time."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def is_told(hub: Client, model: str, reason: str) -> bool:
    return reason in failures(hub, model)


def test_a_round_is_the_hubs_weighted_mean(aggregator: HubModelAggregator, hub: Client, model: str) -> None:
    aggregator.accept_model(result("site-1", {"w": [1, 1, 1], "b": [2]}, steps=30, accuracy=0.9))
    aggregator.accept_model(result("site-2", {"w": [5, 5, 5], "b": [6]}, steps=10, accuracy=0.5))
    made = aggregator.aggregate_model()
    assert made.params_type == ParamsType.FULL
    assert values_of(made) == {"w": [2.0] * 3, "b": [3.0]}
    assert made.metrics == {"accuracy": pytest.approx(0.8)}
    found = hub.get_model(model)
    assert (found.aggregates, found.updates["COMPLETE"]) == (1, 2)


def test_differences_are_added_to_what_the_round_began_with(aggregator: HubModelAggregator) -> None:
    for number in range(1, 3):
        aggregator.reset_stats()
        aggregator.accept_model(result("site-1", {"w": [1, 2, 3], "b": [0]}, diff=True))
        aggregator.accept_model(result("site-2", {"w": [3, 2, 1], "b": [2]}, diff=True))
        assert values_of(aggregator.aggregate_model()) == {"w": [2.0 * number] * 3, "b": [1.0 + number]}


def test_what_comes_twice_counts_once(aggregator: HubModelAggregator, hub: Client, model: str) -> None:
    for _ in range(2):
        aggregator.accept_model(result("site-1", {"w": [1, 1, 1], "b": [1]}))
    aggregator.accept_model(result("site-2", {"w": [3, 3, 3], "b": [1]}))
    assert values_of(aggregator.aggregate_model())["w"] == [2.0] * 3
    assert hub.get_model(model).updates["COMPLETE"] == 2


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (result("site-1", {"w": [math.nan] * 3, "b": [1]}), "NOT_FINITE"),
        (result("site-1", {"w": [1] * 4, "b": [1]}), "SHAPE"),
        (result("site-1", {"w": [1] * 3}, diff=True), "differ in b"),
        (result("site-1", {"w": [1] * 4, "b": [1]}, diff=True), "other shapes than the model: w"),
        (result("site-1", {"w": [1] * 3, "b": [1]}, steps=-1), "must be finite and above 0"),
        (FLModel(params_type=ParamsType.FULL, params={}, meta={"client_name": "site-1"}), "no parameters"),
        (FLModel(params_type=ParamsType.FULL, params=dict(_START)), "does not say which site"),
    ],
)
def test_what_can_not_be_used_is_told_and_left_out(
    aggregator: HubModelAggregator, hub: Client, model: str, bad: FLModel, reason: str
) -> None:
    with pytest.raises(ResultRefused, match=reason):
        aggregator.accept_model(bad)
    aggregator.accept_model(result("site-2", {"w": [3, 3, 3], "b": [1]}))
    assert values_of(aggregator.aggregate_model())["w"] == [3.0] * 3
    until(lambda: reason in failures(hub, model))


def test_a_round_of_which_nothing_is_left_changes_nothing(
    aggregator: HubModelAggregator, hub: Client, model: str
) -> None:
    assert values_of(aggregator.aggregate_model()) == {"w": [0.0] * 3, "b": [1.0]}
    assert hub.get_model(model).aggregates == 0
    until(lambda: "no result of the round could be used" in failures(hub, model))


def test_a_round_of_too_few_for_its_aggregator_is_told_and_changes_nothing(hub: Client, model: str) -> None:
    aggregator = HubModelAggregator(model, {"aggregator": "krum", "aggregator_params": {"num_byzantine": 1}})
    aggregator.begin(lambda: _START, 3)
    for lost in (1, 2):
        for site in ("site-1", "site-2"):
            aggregator.accept_model(result(site, {"w": [5, 5, 5], "b": [6]}))
        assert values_of(aggregator.aggregate_model()) == {"w": [0.0] * 3, "b": [1.0]}
        until(partial(is_told, hub, model, f"its parameters ({lost} of 3 in a row)"))
        aggregator.reset_stats()
    for number in range(5):
        aggregator.accept_model(result(f"site-{number}", {"w": [5, 5, 5], "b": [6]}))
    assert values_of(aggregator.aggregate_model())["w"] == [5.0] * 3


def test_a_job_that_is_submitted_again_begins_with_the_hubs_newest(
    aggregator: HubModelAggregator, hub: Client, model: str
) -> None:
    """The first one's server was killed when one of two results was handed over."""
    aggregator.accept_model(result("site-1", {"w": [1, 1, 1], "b": [1]}))
    aggregator.aggregate_model()
    aggregator.reset_stats()
    aggregator.accept_model(result("site-1", {"w": [9, 9, 9], "b": [9]}))

    again = HubModelAggregator(model)
    newest = again.begin(lambda: pytest.fail("the model is there"), 3)
    assert newest.number == 1
    assert newest.arrays["w"].tolist() == [1.0] * 3
    again.accept_model(result("site-1", {"w": [2, 2, 2], "b": [1]}))
    again.accept_model(result("site-2", {"w": [4, 4, 4], "b": [1]}))
    assert values_of(again.aggregate_model())["w"] == [3.0] * 3
    assert hub.get_model(model).updates["COMPLETE"] == 3


def shareable(arrays: dict[str, Any]) -> Shareable:
    data = {name: np.asarray(values, np.float32) for name, values in arrays.items()}
    return DXO(DataKind.WEIGHTS, data=data, meta={"NUM_STEPS_CURRENT_ROUND": 1}).to_shareable()


def context(site: str | None = None, props: Mapping[str, Any] | None = None) -> FLContext:
    made = FLContext()
    if site is not None:
        peer = FLContext()
        peer.set_prop(ReservedKey.IDENTITY_NAME, site, private=False, sticky=False)
        made.set_peer_context(peer)
    for name, value in (props or {}).items():
        made.set_prop(name, value, private=True, sticky=False)
    return made


def test_scatter_and_gathers_way_to_call_it(tmp_path: Path, model: str, hub: Client) -> None:
    first = tmp_path / "first.npz"
    np.savez(first, w=_START["w"], b=_START["b"])
    aggregator = HubModelAggregator(model, initial=str(first))
    assert aggregator.accept(shareable({"w": [1, 1, 1], "b": [1]}), context("site-1"))
    assert not aggregator.accept(shareable({"w": [1], "b": [1]}), context("site-2"))
    assert aggregator.accept(shareable({"w": [3, 3, 3], "b": [1]}), context("site-3"))
    made = aggregator.aggregate(context())
    assert made["DXO"]["data"]["w"].tolist() == [2.0] * 3
    aggregator.reset(context())
    assert hub.get_model(model).updates["COMPLETE"] == 2


def test_scatter_and_gathers_late_results_count_in_no_other_round(
    aggregator: HubModelAggregator, hub: Client, model: str
) -> None:
    """It hands them over as if they were the present round's: what they were trained from says otherwise."""
    late = shareable({"w": [100, 100, 100], "b": [1]})
    late.set_cookie_jar({AppConstants.CONTRIBUTION_ROUND: 0})
    now = shareable({"w": [3, 3, 3], "b": [1]})
    now.set_cookie_jar({AppConstants.CONTRIBUTION_ROUND: 1})
    assert not aggregator.accept(late, context("site-1", {AppConstants.CURRENT_ROUND: 1}))
    assert aggregator.accept(now, context("site-2", {AppConstants.CURRENT_ROUND: 1}))
    assert values_of(aggregator.aggregate_model())["w"] == [3.0] * 3
    assert hub.get_model(model).updates["COMPLETE"] == 1


def test_a_result_that_the_hub_could_not_judge_is_left_out_of_no_round(
    aggregator: HubModelAggregator, hub: Client, model: str
) -> None:
    """FLARE goes on when a result is not accepted, and the round would lack a site that did nothing wrong."""
    aggregator.accept_model(result("site-1", {"w": [1, 1, 1], "b": [1]}))
    hub.stop_model(model)
    with pytest.raises(Rejected, match="STOPPED"):
        aggregator.accept_model(result("site-2", {"w": [3, 3, 3], "b": [1]}))
    with pytest.raises(Rejected, match="STOPPED"):
        aggregator.aggregate_model()
    aggregator.reset_stats()
    assert hub.get_model(model).aggregates == 0


def test_a_controller_with_a_model_of_its_own_does_not_go_on(aggregator: HubModelAggregator, model: str) -> None:
    aggregator.accept_model(result("site-1", {"w": [1, 1, 1], "b": [1]}))
    aggregator.aggregate_model()
    with pytest.raises(InvalidArgument, match="1 aggregates"):
        HubModelAggregator(model).accept_model(result("site-1", {"w": [1, 1, 1], "b": [1]}))


def test_a_model_of_which_nobody_gave_the_first_parameters_is_refused(model: str) -> None:
    with pytest.raises(InvalidArgument, match="no initial model was given"):
        HubModelAggregator(model).accept_model(result("site-1", {"w": [1, 1, 1], "b": [1]}))


def test_scalars_become_points(aggregator: HubModelAggregator, hub: Client, model: str) -> None:
    receiver = HubAnalyticsReceiver(model)
    receiver.initialize(context())
    for step in range(3):
        for site in ("site-1", "site-2"):
            dxo = create_analytic_dxo("loss", 1.0 / (step + 1), AnalyticsDataType.SCALAR, global_step=step)
            receiver.save(context(), dxo.to_shareable(), site)
    several = create_analytic_dxo("rates", {"a": 0.5, "b": 0.25}, AnalyticsDataType.SCALARS, global_step=1)
    receiver.save(context(), several.to_shareable(), "site-1")
    receiver.save(context(), create_analytic_dxo("words", "hello", AnalyticsDataType.TEXT).to_shareable(), "site-1")
    receiver.finalize(context())
    told = {"loss (site-1)", "loss (site-2)", "rates a (site-1)", "rates b (site-1)"}
    until(lambda: {plot.label for plot in hub.metrics(model).plots} == told)
    assert {plot.x_label for plot in hub.metrics(model).plots} == {"Steps"}


def test_a_job_that_flare_aggregates_is_told(hub: Client, model: str) -> None:
    reporter = HubReporter(model, observe_only=True)
    reporter.handle_event(EventType.START_RUN, context())
    reporter.handle_event(AppEventType.TRAINING_STARTED, context())
    for number in range(2):
        props: dict[str, Any] = {AppConstants.CURRENT_ROUND: number, AppConstants.NUM_ROUNDS: 2}
        reporter.handle_event(AppEventType.ROUND_STARTED, context(props=props))
        for site in ("site-1", "site-2"):
            props[AppConstants.AGGREGATION_ACCEPTED] = site == "site-1"
            reporter.handle_event(AppEventType.AFTER_CONTRIBUTION_ACCEPT, context(site, props))
        reporter.handle_event(AppEventType.AFTER_AGGREGATION, context(props=props))
    reporter.handle_event(EventType.END_RUN, context())
    until(lambda: hub.progress(model).status == "RESULTS_UPLOADED")
    until(lambda: (hub.progress(model).current_round, hub.progress(model).total_rounds) == (2, 2))
    until(lambda: "site-2: FLARE did not take the site's result" in failures(hub, model))


@pytest.mark.parametrize(("fatal", "aborted", "status"), [(True, True, "ERROR"), (False, True, "STOPPED")])
def test_how_a_job_ended_is_told(
    aggregator: HubModelAggregator, hub: Client, model: str, fatal: bool, aborted: bool, status: str
) -> None:
    reporter = HubReporter(model)
    reporter.handle_event(EventType.START_RUN, context())
    lost = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    props: dict[str, Any] = {FLContextKey.TASK_RESULT: lost, FLContextKey.TASK_NAME: "train"}
    reporter.handle_event(EventType.BEFORE_PROCESS_SUBMISSION, context("site-3", props))
    if fatal:
        reporter.handle_event(EventType.FATAL_SYSTEM_ERROR, context(props={FLContextKey.EVENT_DATA: "no disk"}))
    signal = Signal()
    if aborted:
        signal.trigger(True)
    reporter.handle_event(EventType.END_RUN, context(props={ReservedKey.RUN_ABORT_SIGNAL: signal}))
    until(lambda: hub.progress(model).status == status)
    until(lambda: "site-3: the site's task train failed: EXECUTION_EXCEPTION" in failures(hub, model))
    if fatal:
        until(lambda: "no disk" in failures(hub, model))
