"""The command that combines model files: no database, no broker, no settings."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.edge import fail, readable_errors, settings_or_exit
from worker.cli.output import show_json

if TYPE_CHECKING:
    from tasks.aggregation import Engine
    from worker.combining import Combination, Outcome, UpdateFile

_MIB = 1024 * 1024


def add_to(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command("combine")(combine)


def combine(
    updates: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE[:NUM_EXAMPLES[,num_steps=…][,loss=…][,staleness=…][,base=FILE]]…",
            help="The updates, safetensors, npz or FMA's JSON, summed in this order.",
        ),
    ],
    aggregator: Annotated[str, typer.Option(help="As a model names it: fedavg, median, krum, …")],
    out: Annotated[Path, typer.Option(metavar="OUT", help="JSON if it ends in .json, else safetensors.")],
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="One of the aggregator's; JSON or plain text.")
    ] = None,
    current: Annotated[Path | None, typer.Option(metavar="FILE", help="The model that the updates build on.")] = None,
    state_in: Annotated[Path | None, typer.Option(metavar="FILE", help="What the last round left.")] = None,
    state_out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to leave it for the next.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="By default one for each processor.")] = None,
    budget_mib: Annotated[int, typer.Option(min=1, help="Memory for the engine's own arrays.")] = 256,
    engine: Annotated[str, typer.Option(help="Who computes: auto, numpy, numba. The bytes are the same.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Combine model files into OUT, by the engine that the rounds run."""
    from worker.combining import Combination, combine_files

    # Ended by a signal, it leaves no staged file either.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    combination = Combination(
        aggregator=aggregator,
        updates=[parse_update(given) for given in updates],
        out=out,
        params=parse_params(param or []),
        current=current,
        state_in=state_in,
        state_out=state_out,
        threads=threads,
        budget_bytes=budget_mib * _MIB,
        engine=parse_engine(engine),
    )
    _load_plugin_of(aggregator)
    with readable_errors():
        outcome = combine_files(combination)
    if as_json:
        show_json({"out": str(out), **outcome.as_json()})
    else:
        _show(combination, outcome)


def parse_update(given: str) -> UpdateFile:
    """An update from the form `FILE:NUM_EXAMPLES,name=value,…`; a file of just that name is taken for it."""
    from worker.combining import UpdateFile

    path, colon, beside = given.rpartition(":")
    if not colon or Path(given).exists():
        return UpdateFile(Path(given))
    known: dict[str, Any] = {"num_steps": int, "loss": float, "staleness": int, "base": Path}
    assert known.keys() < {field.name for field in fields(UpdateFile)}
    examples, *others = beside.split(",")
    values: dict[str, Any] = {"num_examples": _number(given, "num_examples", float, examples)} if examples else {}
    for other in others:
        name, _, text = other.partition("=")
        if name not in known:
            fail(f"{given}: {name!r} is not known of an update; known are {', '.join(known)}")
        values[name] = _number(given, name, known[name], text)
    return UpdateFile(Path(path), **values)


def _number(given: str, name: str, kind: type[Any], text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        fail(f"{given}: {text!r} is no {name}: give a number, as in FILE:100")


def parse_params(given: list[str]) -> dict[str, Any]:
    """Parameters from the form `name=value`."""
    params: dict[str, Any] = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not equals or not name:
            fail(f"--param {each}: give NAME=VALUE")
        if name in params:
            fail(f"--param {each}: {name} was given before")
        try:
            params[name] = json.loads(text)
        except ValueError:
            params[name] = text
    return params


def _load_plugin_of(aggregator: str) -> None:
    """Settings are looked at only for an aggregator that is not our own: FEDQUEUE_PLUGINS may bring it."""
    from tasks.aggregation import known_aggregators

    if aggregator not in known_aggregators():
        from worker.plugins import load_plugins

        settings = settings_or_exit()
        with readable_errors():
            load_plugins(settings)


def parse_engine(given: str) -> Engine:
    """The engine of that name."""
    from tasks.aggregation import Engine

    try:
        return Engine(given)
    except ValueError:
        fail(f"--engine {given}: known are {', '.join(Engine)}")


def _show(combination: Combination, outcome: Outcome) -> None:
    report = outcome.report
    speed = report.bytes_read / outcome.seconds / 1e9
    lines = [
        f"{combination.out}: {report.aggregator} of {report.num_updates} updates, {report.num_examples:g} examples",
        f"{len(report.tensors)} tensors, {report.bytes_read / 1e6:.1f} MB read in {outcome.seconds:.3f} s "
        f"({speed:.2f} GB/s, {outcome.threads} threads); on disk after {outcome.seconds_to_disk:.3f} s",
        *(f"{name}: {value}" for name, value in report.facts.items()),
    ]
    if combination.state_out is not None and not report.state:
        lines.append(f"{combination.state_out}: nothing, as this round left no state")
    sys.stdout.write("\n".join(lines) + "\n")
