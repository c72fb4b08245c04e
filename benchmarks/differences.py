"""Where other projects' aggregation gives other numbers than ours: `python -m benchmarks.differences`.

Small files whose outcome one can work out by hand, given to the same contestants as benchmarks/aggregation.py.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from safetensors.numpy import load_file, save_file

from benchmarks.contestants import Contestant, PeerMissing
from benchmarks.peers.serving import Request

Update = dict[str, NDArray[Any]]

_MEANS: Final = (
    ("fedqueue", "fedavg"),
    ("nvflare", "WeightedAggregationHelper"),
    ("flower", "aggregate"),
    ("flower", "aggregate_inplace"),
    ("flower", "aggregate_arrayrecords"),
)
_KRUMS: Final = (("fedqueue", "krum"), ("flower", "aggregate_krum"), ("flower", "select_multikrum"))
_QFEDAVGS: Final = (("fedqueue", "qfedavg"), ("flower", "QFedAvg"), ("flower", "server.strategy.QFedAvg"))
_FEDADAMS: Final = (("fedqueue", "fedadam"), ("flower", "FedAdam"), ("flower", "server.strategy.FedAdam"))
_MULTI_KRUMS: Final = (("fedqueue", "multi_krum"), ("flower", "MultiKrum"), ("flower", "server.strategy.Krum"))
_BULYANS: Final = (("fedqueue", "bulyan"), ("flower", "Bulyan"), ("flower", "server.strategy.Bulyan"))
_CLIPS: Final = (
    ("fedqueue", "dp_fedavg"),
    ("flower", "FixedClipping"),
    ("flower", "server.strategy.FixedClipping"),
)
_FEDBUFFS: Final = (("fedqueue", "fedbuff"), ("nvflare", "BuffModelManager"))
_SCAFFOLDS: Final = (("fedqueue", "scaffold"), ("nvflare", "Scaffold"))
_HARDLY_ANY_NOISE: Final = {"noise_multiplier": 1e-12, "delta": 1e-5}
_REFUSED: Final = "refused"


@dataclass(frozen=True)
class Case:
    """A few updates, and what should come of them."""

    title: str
    updates: Sequence[Update]
    num_examples: Sequence[int]
    expected: str
    entrants: Sequence[tuple[str, str]] = _MEANS
    params: dict[str, Any] = field(default_factory=dict)
    losses: Sequence[float] = ()
    num_steps: Sequence[int] = ()
    current: Update | None = None


def _w(values: Any, dtype: str) -> Update:
    return {"w": np.array(values, dtype)}


def converged_updates() -> tuple[list[Update], int]:
    """Ten updates late in training, 10⁻⁵ of their weights apart, and the one nearest to its neighbours.

    So the squared distances are some 10⁻¹⁰ of the squared norms: far below what float32 can tell apart there.
    """
    rng = np.random.default_rng(1)
    model = 0.05 * rng.standard_normal(200_000, np.float32)
    scales = [9, 8, 7, 1, 6, 5, 4, 3, 2, 10]
    updates = [model + np.float32(2e-7 * scale) * rng.standard_normal(model.size, np.float32) for scale in scales]
    wide = np.array(updates, np.float64)
    distances = ((wide[:, None, :] - wide[None, :, :]) ** 2).sum(axis=2)
    scores = np.sort(distances, axis=1)[:, 1:7].sum(axis=1)  # itself left out, its n - f - 2 = 6 nearest
    return [{"w": update} for update in updates], int(np.argmin(scores))


def cases() -> list[Case]:
    """All of them."""
    converged, nearest = converged_updates()
    return [
        Case("float16: 60 and 60, of 1,000 examples each", [_w([60], "float16")] * 2, [1000, 1000], "60 float16"),
        Case("int64 counters: 3 of 1 example, 4 of 2", [_w([3], "int64"), _w([4], "int64")], [1, 2], "4 int64"),
        Case(
            "one update of shape (3,), one of (3, 3)",
            [_w([1, 2, 3], "float32"), _w(np.ones((3, 3)), "float32")],
            [1, 1],
            _REFUSED,
        ),
        Case(
            "v 8 and w 1; the other lacks v, and w is 3",
            [{"v": np.full(1, 8, np.float32), "w": np.ones(1, np.float32)}, _w([3], "float32")],
            [1, 1],
            _REFUSED,
        ),
        Case("one update is NaN", [_w([1], "float32"), _w([np.nan], "float32")], [1, 1], _REFUSED),
        Case("no examples at all", [_w([1], "float32"), _w([2], "float32")], [0, 0], _REFUSED),
        Case("a negative number of examples", [_w([1], "float32"), _w([2], "float32")], [-1, 3], _REFUSED),
        Case(
            "Krum (f = 2) of ten updates late in training",
            converged,
            [1] * 10,
            f"update {nearest}",
            _KRUMS,
            {"num_byzantine": 2},
        ),
        Case(
            "q-FedAvg (q = 1, L = 1) from 0: 1 of loss 2, 3 of loss 1",
            [_w([1], "float32"), _w([3], "float32")],
            [1, 1],
            "0.3846 float32",  # (2 × 1 + 1 × 3) / ((1² + 2) + (3² + 1)): Li et al., ICLR 2020, Algorithm 2
            _QFEDAVGS,
            {"q": 1.0, "lipschitz": 1.0},
            losses=[2.0, 1.0],
            current=_w([0], "float32"),
        ),
        *_cases_of_strategies(),
    ]


def _cases_of_strategies() -> list[Case]:
    """Of those that build on a current model, here 0."""
    zero = _w([0], "float64")
    return [
        Case(
            "FedAdam (eta .1, betas .9 and .99, tau .001), the first round: one update of 2",
            [_w([2], "float64")],
            [1],
            "0.0995 float64",  # .1 × .2 / (√.04 + .001): Reddi et al., ICLR 2021, Algorithm 2
            _FEDADAMS,
            {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
            current=zero,
        ),
        Case(
            "multi-Krum (f = 1, m = 2): 0, 10, 11, 13, 1000; 11 says that it is of 3 examples",
            [_w([value], "float64") for value in (0, 10, 11, 13, 1000)],
            [1, 1, 3, 1, 1],
            "10.5 float64",  # 10 and 11: Blanchard et al., NeurIPS 2017
            _MULTI_KRUMS,
            {"num_byzantine": 1, "m": 2},
            current=zero,
        ),
        Case(
            "Bulyan (f = 2): 0 to 5 and 8 to 12",
            [_w([value], "float64") for value in (*range(6), *range(8, 13))],
            [1] * 11,
            "3 float64",  # the picks 4, 8, 3, 9, 2, 11, 0: El Mhamdi et al., ICML 2018
            _BULYANS,
            {"num_byzantine": 2},
            current=zero,
        ),
        Case(
            "private mean, clip 1: 4 of 3 examples, .5 of 1",
            [_w([4], "float64"), _w([0.5], "float64")],
            [3, 1],
            "0.75 float64",  # (1 + .5) / 2: one client moves it by clip / 2 at most, which is what the noise is for
            _CLIPS,
            {"clip": 1.0} | _HARDLY_ANY_NOISE,
            current=zero,
        ),
        Case(
            "private mean, clip 1: 4, in a tensor without dimensions",
            [_w(4, "float64")],
            [1],
            "1 float64",
            _CLIPS,
            {"clip": 1.0} | _HARDLY_ANY_NOISE,
            current=_w(0, "float64"),
        ),
        Case(
            "FedBuff (eta 1): a fresh update of 2",
            [_w([2], "float64")],
            [1],
            "2 float64",  # 1 / √(1 + 0): Nguyen et al., AISTATS 2022
            _FEDBUFFS,
            {"buffer_size": 1, "eta": 1.0},
            current=zero,
        ),
        Case(
            "SCAFFOLD: 1 after 1 step, 4 after 3",
            [_w([1], "float64"), _w([4], "float64")],
            [1, 1],
            "2.5 float64",  # their plain mean: Karimireddy et al., ICML 2020, Algorithm 1
            _SCAFFOLDS,
            {"local_learning_rate": 0.5, "num_clients": 2},
            num_steps=[1, 3],
            current=zero,
        ),
    ]


def answer_of(contestant: Contestant, method: str, case: Case, folder: Path) -> str:
    """What comes of the case, in few words."""
    files = []
    for index, update in enumerate(case.updates):
        files.append(str(folder / f"{index}.safetensors"))
        save_file(update, files[-1])
    out, current = folder / "out.safetensors", ""
    if case.current is not None:
        current = str(folder / "current.safetensors")
        save_file(case.current, current)
    request = Request(method, files, list(case.num_examples), str(out), case.params, 1)
    request = replace(request, current=current, losses=list(case.losses), num_steps=list(case.num_steps))
    answer = contestant.ask(replace(request, staleness=[0] * len(files)))
    if answer.error:
        return _REFUSED
    result = load_file(out)
    out.unlink()
    if case.entrants is _KRUMS:
        picked = [i for i, update in enumerate(case.updates) if np.array_equal(update["w"], result["w"])]
        return f"update {picked[0]}" if picked else "none of them"
    if result["w"].size > 1:
        return f"an array of shape {result['w'].shape}"
    values = {name: array.reshape(-1)[0] for name, array in sorted(result.items())}
    if len(case.updates[0]) > 1:
        return ", ".join(f"{name} {float(value):.4g}" for name, value in values.items())
    return f"{float(values['w']):.4g} {values['w'].dtype}"


def main() -> int:
    """Print the table; 1 if ours is not what is expected, 2 if a peer is missing."""
    table = Table(title="the same files, other numbers", title_justify="left", show_lines=True)
    for column in ("updates", "expected", "contestant", "function", "gives"):
        table.add_column(column, overflow="fold")
    right = True
    try:
        with ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedqueue-differences-")))
            names = sorted({name for name, _method in _MEANS})
            running = {name: stack.enter_context(Contestant(name)) for name in names}
            for case in cases():
                given = [(n, m, answer_of(running[n], m, case, place)) for n, m in case.entrants]
                right = right and given[0][2] == case.expected
                columns = ("\n".join(column) for column in zip(*given, strict=True))
                table.add_row(case.title, case.expected, *map(escape, columns))
    except PeerMissing as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
