"""The plugin that kills real workers at failpoints: who dies, how often, and what is left to be counted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import StoreUnavailable
from tests.chaos.failpoint_plugin import PLUGIN, Killer, deaths, failpoint_environment, sleeps, turn_off, turn_on
from tests.chaos.failpoints import Failpoint
from tests.hubs import ROOT, environment


def _killer(folder: Path, **how: Any) -> Killer:
    return Killer(failpoint_environment(folder, 7, **({"probability": 0.0, "fault_probability": 0.0} | how)))


def _survives(killer: Killer, point: Failpoint, times: int = 1) -> bool:
    """Whether a process of its own comes by the point so often."""
    child = os.fork()
    if child == 0:
        for _ in range(times):
            killer.reached(point)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status == 0


def test_each_death_is_a_line_that_outlives_it(tmp_path: Path) -> None:
    killer = _killer(tmp_path, eager=1.0, points=(Failpoint.OPENED, Failpoint.FENCED))
    assert not _survives(killer, Failpoint.OPENED)
    assert not _survives(killer, Failpoint.FENCED)
    assert not _survives(killer, Failpoint.OPENED, 100)
    assert _survives(killer, Failpoint.CLAIMED), "which is none of the points"
    assert deaths(tmp_path) == {"combine.opened": 2, "post.fenced": 1}


def test_nobody_dies_while_it_is_turned_off(tmp_path: Path) -> None:
    killer = _killer(tmp_path, eager=1.0)
    turn_off(tmp_path)
    assert _survives(killer, Failpoint.OPENED)
    turn_on(tmp_path)
    assert not _survives(killer, Failpoint.OPENED)


def test_who_has_died_often_enough_at_a_point_dies_there_seldom(tmp_path: Path) -> None:
    """Never, here: so that points which are seldom come by have their turn."""
    for _ in range(2):
        assert not _survives(_killer(tmp_path, eager=1.0, enough=2), Failpoint.OPENED, 1000)
    assert _survives(_killer(tmp_path, eager=1.0, enough=2), Failpoint.OPENED, 1000)
    assert not _survives(_killer(tmp_path, eager=1.0, enough=2, probability=1.0), Failpoint.OPENED)


def test_a_worker_sleeps_amid_a_round_alone(tmp_path: Path) -> None:
    killer = _killer(tmp_path, points=(), sleep_probability=1.0, sleep_seconds=0.001)
    killer.reached(Failpoint.RESULT_STORED)
    killer.reached(Failpoint.FENCED)  # a transaction is open: everybody would wait for it
    assert sleeps(tmp_path) == 1


def test_the_store_fails_a_round_now_and_then(tmp_path: Path) -> None:
    killer = _killer(tmp_path, points=(), fault_probability=1.0)
    killer.reached(Failpoint.STORED)
    with pytest.raises(StoreUnavailable):
        killer.reached(Failpoint.OPENED)


@pytest.mark.parametrize("is_configured", [True, False])
def test_a_worker_has_failpoints_only_where_it_is_told_so(tmp_path: Path, is_configured: bool) -> None:
    """As a worker imports it. Without its environment our classes are left as they are."""
    variables = failpoint_environment(tmp_path / "deaths", 7, eager=1.0) if is_configured else {}
    program = f"import {PLUGIN}\nfrom tests.chaos.failpoints import *\nreach(Failpoint.OPENED)\n"
    program += "from tasks.hub import Hub\nassert not hasattr(Hub.__init__, '__wrapped__')"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=ROOT, env=environment(tmp_path, **variables), timeout=120)
    assert ended.returncode == (-signal.SIGKILL if is_configured else 0)
