"""The examples run as anybody would run them, and what they say is so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.heterogeneous.__main__ import CONTENDERS
from examples.heterogeneous.comparing import Contender, run
from examples.heterogeneous.devices import CLASSES, FEATURES, synthetic
from examples.heterogeneous.regression import loss_of, new_model, train
from tests.hubs import ROOT

NAMES = ["fedavg", "fedadam", "fedyogi", "fednova"]


def _run(*arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "examples.heterogeneous", *arguments],
        cwd=ROOT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_it_ends_with_the_losses_that_it_computed(tmp_path: Path) -> None:
    shown = _run("--rounds", "2", "--seed", "3", "--plot", str(tmp_path / "plots" / "courses.png"))
    data: dict[str, Any] = json.loads(_run("--rounds", "2", "--seed", "3", "--json"))
    last = shown.splitlines()[-1]
    assert last.startswith("training loss after 2 rounds: ")
    losses = {name: float(value) for name, value in re.findall(r"(\w+) (\d\.\d{4})", last)}
    # Two processes, the same seed, the same numbers.
    assert losses == {each["aggregator"]: round(each["losses"][-1], 4) for each in data["courses"]}
    assert list(losses) == NAMES
    for course in data["courses"]:
        assert len(course["losses"]) == len(course["accuracies"]) == 3
        assert course["losses"][0] == pytest.approx(np.log(CLASSES)), "a model that has learnt nothing"
    plot = (tmp_path / "plots" / "courses.png").read_bytes()
    assert plot.startswith(b"\x89PNG")


def test_fednova_is_ahead_of_fedavg_where_local_epochs_differ() -> None:
    """What the example is for: the default comparison's first quarter, with the default rates."""
    rates = {contender.aggregator: contender for contender in CONTENDERS}
    fedavg, fednova = (run(rates[name], synthetic(0), 25, 0) for name in ("fedavg", "fednova"))
    assert fednova.losses[-1] < 0.6 * fedavg.losses[-1]
    assert fednova.accuracies[-1] > fedavg.accuracies[-1] + 0.1


def test_another_seed_is_another_comparison() -> None:
    one, two = (run(Contender("fedavg", 0.01), synthetic(seed), 1, seed).losses for seed in (1, 2))
    assert one[1] != two[1]


def test_a_round_that_is_wrong_is_refused_in_a_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "examples.heterogeneous", "--rounds", "0"], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "--rounds must be 1 or more" in ended.stderr


def test_devices_are_what_the_paper_describes() -> None:
    """Inputs of one device vary by j^-1.2 around a centre of its own; sizes follow a power law."""
    devices = synthetic(0)
    largest = max(devices, key=lambda device: device.num_examples)
    assert largest.features.shape == (largest.num_examples, FEATURES)
    variances = largest.features.var(axis=0)
    assert variances == pytest.approx(np.arange(1, FEATURES + 1) ** -1.2, rel=0.15)
    centres = np.array([device.features.mean(axis=0) for device in devices])
    assert centres.std() > 1
    sizes = np.concatenate([[d.num_examples for d in synthetic(seed)] for seed in range(100)]) / 0.8
    assert sizes.min() >= 49
    # Of 3,000 devices a half has more than 100 examples and a twentieth more than 1,000.
    assert np.mean(sizes > 100) == pytest.approx(0.5, abs=0.04)
    assert np.mean(sizes > 1000) == pytest.approx(0.05, abs=0.015)


def test_a_device_takes_as_many_steps_as_it_says() -> None:
    device = min(synthetic(0), key=lambda each: each.num_examples * each.epochs)
    model, steps = train(new_model(), device, 0.01, [0])
    assert steps == device.epochs * -(-device.num_examples // 10)
    before = loss_of(new_model(), device.features, device.labels)
    assert loss_of(model, device.features, device.labels) < before
