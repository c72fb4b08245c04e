"""The ledger's epsilon beside another project's: dp-accounting 0.6.0 (numpy 2.4.6, scipy 1.17.1, Python 3.11).

It wants attrs below 24 and so can't be installed beside jsonschema: its figures stand here instead. For each row

    event = PoissonSampledDpEvent(rate, GaussianDpEvent(noise))  # without sampling: the GaussianDpEvent alone
    accountant.compose(SelfComposedDpEvent(event, rounds))

on `RdpAccountant(ORDERS)`: `classic` is the least of rdp + log(1 / delta) / (order - 1) over its `rdp`, `improved` is
its `get_epsilon(delta)`. `default` is the same of `RdpAccountant()`, whose orders are its own, fractions among them;
`tightest` is of `pld.PLDAccountant()`, which takes no Rényi costs at all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from tasks.aggregation import UpdateArrays, combine
from tasks.aggregation.privacy import Conversion, epsilon, rdp_of_round


class Row(NamedTuple):
    """What was spent, and what dp-accounting makes of it."""

    rate: float
    noise: float
    rounds: int
    delta: float
    classic: float
    improved: float
    default: float
    tightest: float

    def ours(self, conversion: Conversion) -> float:
        """What our ledger makes of it."""
        return epsilon(self.rounds * rdp_of_round(self.rate, self.noise), self.delta, conversion)


ROWS = [
    Row(0.01, 4, 10_000, 1e-5, 1.25857474, 1.03549007, 1.03549, 0.947),
    Row(0.01, 4, 1_000, 1e-5, 0.396199184, 0.301161159, 0.301161, 0.27217),
    Row(0.01, 4, 10_000, 1e-8, 1.58604283, 1.4023139, 1.40231, 1.3231),
    Row(0.01, 1, 1_000, 1e-5, 2.53834755, 2.10775308, 2.10137, 1.8282),
    Row(0.01, 0.7, 1_000, 1e-6, 7.20138724, 6.45160705, 6.27865, 5.4479),
    Row(0.001, 1, 10_000, 1e-6, 1.27333011, 0.979541626, 0.979542, 0.55539),
    Row(0.001, 0.7, 1_000, 1e-5, 2.3298478, 1.78917435, 1.65319, 0.60896),
    Row(0.1, 1, 100, 1e-5, 8.92769276, 7.97292151, 7.90385, 7.0466),
    Row(0.1, 2, 1_000, 1e-6, 10.6084532, 9.85867296, 9.82388, 9.182),
    Row(0.1, 10, 1_000, 1e-8, 1.99123136, 1.77423091, 1.77423, 1.6751),
    Row(0.5, 4, 100, 1e-5, 7.07590559, 6.39129266, 6.37082, 5.8687),
    Row(0.5, 10, 1, 1e-5, 0.270114344, 0.195882158, 0.19607, 0.17405),
    Row(1, 1, 1, 1e-5, 5.30258509, 4.75272834, 4.72851, 4.3772),
    Row(1, 4, 10, 1e-6, 4.47364437, 4.01161605, 4.01038, 3.7472),
    Row(1, 10, 1_000, 1e-5, 20.7564627, 19.8016915, 19.0536, 17.857),
]

_every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: "{:g} {:g} {} {:g}".format(*row[:4]))


@_every_row
def test_at_the_same_orders_both_conversions_are_dp_accountings(row: Row) -> None:
    assert row.ours(Conversion.CLASSIC) == pytest.approx(row.classic, rel=1e-8)
    assert row.ours(Conversion.IMPROVED) == pytest.approx(row.improved, rel=1e-8)


@_every_row
def test_an_epsilon_is_never_below_the_tightest_known(row: Row) -> None:
    """Ours may say that more was spent than was, never less."""
    assert row.tightest <= row.ours(Conversion.IMPROVED) < row.ours(Conversion.CLASSIC)


@_every_row
def test_whole_orders_say_little_more_than_dp_accountings_own(row: Row) -> None:
    """Most where the best order is a fraction (6.6 for a rate of .001 and noise of .7): 8.3 % more."""
    assert row.default * 0.998 < row.ours(Conversion.IMPROVED) < row.default * 1.083


def test_the_figure_of_the_literature_is_the_classic_conversions() -> None:
    """1.26 (Abadi et al., CCS 2016): the improved one gives 1.04 for the same ledger."""
    assert ROWS[0].ours(Conversion.CLASSIC) == pytest.approx(1.26, rel=0.01)
    assert ROWS[0].ours(Conversion.IMPROVED) == pytest.approx(1.0355, rel=1e-4)


def test_the_report_shows_the_conversion_asked_for_and_the_ledger_is_the_same() -> None:
    """One round of every client at noise 1: rows (1, 1, 1, 1e-5)."""
    found = {}
    for conversion in (None, "classic", "improved"):
        params: dict[str, Any] = {"clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-5}
        if conversion is not None:
            params |= {"conversion": conversion}
        combined = combine("dp_fedavg", params, [UpdateArrays({"w": np.ones(1)})], current={"w": np.zeros(1)})
        assert combined.state is not None
        found[conversion] = combined.report.facts["epsilon"], combined.state["ledger"].tolist()
    assert found[None] == found["classic"]
    assert [found[name][0] for name in ("classic", "improved")] == pytest.approx([5.30258509, 4.75272834], rel=1e-8)
    assert found["classic"][1] == found["improved"][1]
