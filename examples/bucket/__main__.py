"""Train on a hub whose store is a bucket: `python -m examples.bucket [--kill]`, or `make example-bucket`.

moto's server speaks S3's protocol, in a process of its own. Every other participant has credentials and goes to the
bucket itself; the others have none and go by the URLs that the hub signs for them. At the end every aggregate is made
again from what lies in the bucket: by the judge, who reads it by plain HTTP, and as `python -m worker verify` does it.
`--kill`: with the hub's workers killed (SIGKILL) all the while.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console

from examples.bucket.checking import identical_aggregates
from fedqueue.remote_stores import SIGNED_URLS
from tests.buckets import make_bucket, object_in, s3_server
from worker.demo.display import showing
from worker.demo.play import Options, Outcome, Storage, play

_BUCKET: Final = "models"
_URL: Final = f"s3://{_BUCKET}/hub"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and end with a line of what came of it; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m examples.bucket", description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill", action="store_true", help="kill the hub's workers all the while")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="fedqueue-bucket-") as place, s3_server(Path(place)) as server:
        make_bucket(server, _BUCKET)
        # The judge reads past all code of the hub's.
        storage = Storage(_URL, _environment_of, partial(object_in, server))
        options = Options(Path(place) / "home", given.rounds, given.clients, given.seed, given.kill, storage)
        with showing(Console(stderr=True), options) as watch:
            outcome = play(options, watch)
        verified = identical_aggregates(options)
    problems = [*outcome.shortcomings, *_shortcomings(options, outcome, verified)]
    for problem in problems:
        sys.stdout.write(f"wrong: {problem}\n")
    sys.stdout.write(f"{_line(outcome, verified)}\n")
    return 1 if problems else 0


def _environment_of(number: int, usual: Mapping[str, str]) -> dict[str, str]:
    """With the hub's credentials, or with none of them."""
    if _has_credentials(number):
        return dict(usual)
    left = {name: value for name, value in usual.items() if not name.startswith("AWS_")}
    return left | {"FEDQUEUE_STORE_URL": SIGNED_URLS}


def _has_credentials(number: int) -> bool:
    return number % 2 == 0


def _shortcomings(options: Options, outcome: Outcome, verified: int) -> list[str]:
    found = []
    if verified != len(outcome.verdict.aggregates):
        found.append(f"{verified} of {len(outcome.verdict.aggregates)} aggregates were made again byte by byte")
    if (options.home / "store").exists():
        found.append("there is model data in a folder of the home")
    return found


def _line(outcome: Outcome, verified: int) -> str:
    verdict = outcome.verdict
    clients = range(outcome.options.clients)
    by_themselves = sum(map(_has_credentials, clients))
    kills = f", {outcome.kills} workers killed" if outcome.options.chaos else ""
    return (
        f"bucket: accuracy {outcome.federated[-1]:.4f}, central {outcome.central[-1]:.4f}, "
        f"{len(verdict.aggregates)} rounds, {verdict.submitted} updates sent "
        f"({by_themselves} participants with credentials, {len(clients) - by_themselves} by signed URLs), "
        f"{outcome.updates} counted, {len(verdict.lost)} lost, {len(verdict.counted_twice)} counted twice, "
        f"{verified} aggregates verified{kills}"
    )


if __name__ == "__main__":
    sys.exit(main())
