"""Names and parameters: a misspelt one is refused with the right one in sight."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.aggregation import (
    Aggregator,
    AggregatorParams,
    IntegerPolicy,
    InvalidParameter,
    UnknownAggregator,
    UnknownParameter,
    check_params,
    find_aggregator,
    known_aggregators,
    register,
)
from tasks.aggregation.means import FedAvgParams, Weighting


def test_fmas_names_are_known() -> None:
    assert {"fedavg", "avg_values_if_data", "average_layers"} <= set(known_aggregators())


def test_a_misspelt_name_is_refused_with_the_nearest_and_all_known() -> None:
    with pytest.raises(
        UnknownAggregator, match=r"did you mean 'fedavg'\?.*average_layers, avg_values_if_data"
    ) as caught:
        find_aggregator("FedAvgg")
    assert caught.value.nearest == "fedavg"
    assert caught.value.known == known_aggregators()


def test_a_name_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(UnknownAggregator) as caught:
        check_params("quux", {})
    assert caught.value.nearest is None


def test_a_misspelt_parameter_is_refused_with_the_nearest_and_all_known() -> None:
    with pytest.raises(
        UnknownParameter, match=r"'weigthing' \(did you mean 'weighting'\?\); it takes weighting, integers"
    ):
        check_params("fedavg", {"weigthing": "uniform"})


def test_a_parameter_of_another_aggregator_is_unknown() -> None:
    with pytest.raises(UnknownParameter, match="average_layers has no parameter 'weighting'"):
        check_params("average_layers", {"weighting": "uniform"})


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"weighting": "examples"}, "fedavg: weighting: .*'num_examples' or 'uniform', not 'examples'"),
        ({"integers": None}, "fedavg: integers"),
        (["uniform", "max", "strict", 4], "4 were given, it takes 3"),
        ("uniform", "not str"),
        (7, "not int"),
        (AggregatorParams(), "another aggregator's"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(params: Any, says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        check_params("fedavg", params)


@pytest.mark.parametrize("nothing", [None, {}, []])
def test_without_parameters_the_defaults_hold(nothing: Any) -> None:
    assert check_params("fedavg", nothing) == FedAvgParams(
        weighting=Weighting.NUM_EXAMPLES, integers=IntegerPolicy.ROUNDED_MEAN
    )


def test_fmas_positional_list_gives_own_parameters_first() -> None:
    assert check_params("fedavg", ["uniform", "max"]) == FedAvgParams(
        weighting=Weighting.UNIFORM, integers=IntegerPolicy.MAX
    )
    assert check_params("average_layers", ["latest"]) == AggregatorParams(integers=IntegerPolicy.LATEST)


def test_checked_parameters_pass_as_they_are() -> None:
    params = FedAvgParams(weighting=Weighting.UNIFORM)
    assert check_params("fedavg", params) is params


def test_parameters_can_not_be_changed_once_checked() -> None:
    with pytest.raises(ValueError, match="frozen"):
        check_params("fedavg", {}).integers = IntegerPolicy.MAX  # type: ignore[misc]


def test_a_name_is_registered_once() -> None:
    fedavg = find_aggregator("fedavg")
    with pytest.raises(ValueError, match="registered already"):
        register(Aggregator("fedavg", AggregatorParams, fedavg.needs, fedavg.combine_chunk))
    assert find_aggregator("fedavg") is fedavg
