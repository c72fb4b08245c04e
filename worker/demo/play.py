"""One demonstration from start to end: a hub, a model, participants, perhaps chaos, and the judge's verdict."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from config.loading import load_settings
from config.places import broker_url_in, database_url_in, store_url_in
from config.settings import PREFIX, Settings
from fedqueue import Client, FedqueueError
from fedqueue.remote_stores import SIGNED_URLS
from worker.children import Child
from worker.demo.chaos import Chaos
from worker.demo.digits import load_digits, split_unevenly
from worker.demo.errors import DemoFailed
from worker.demo.examples import Examples
from worker.demo.judge import Verdict, judge, read_journals
from worker.demo.learning import LOCAL_EPOCHS, Parameters, accuracy, new_parameters, train
from worker.plan import process_environment
from worker.supervisor import Supervisor

# How far below the central model's accuracy the federated one may end.
MARGIN: Final = 0.03
_IDS: Final = UUID("6f1c3a52-0b7e-5d0c-9c5e-2b8f8a1f7d11")
_LOOK_EVERY: Final = 0.2
_LONGEST_SECONDS: Final = 900.0
# Under chaos a round lasts about a second, so that kills meet rounds at every moment of theirs.
_CHAOS_PAUSE: Final = 0.7


@dataclass(frozen=True)
class Storage:
    """A store that is no folder of the hub's home, and how those who take part reach it.

    `environment_of(number, usual)`: what that participant (from 0 on) runs with; `fetch(uri)`: how the judge reads.
    """

    url: str
    environment_of: Callable[[int, Mapping[str, str]], dict[str, str]]
    fetch: Callable[[str], bytes]


@dataclass(frozen=True)
class Options:
    """What is to be shown."""

    home: Path
    rounds: int = 20
    clients: int = 10
    seed: int = 0
    chaos: bool = False
    storage: Storage | None = None

    @property
    def database(self) -> Path:
        """The hub's."""
        return self.home / "fedqueue.db"

    @property
    def model_id(self) -> UUID:
        """Of the model that is trained."""
        return uuid5(_IDS, f"model {self.seed}")

    @property
    def fewest_kills(self) -> int:
        """A chaos of fewer kills would show nothing."""
        return self.rounds // 2 if self.chaos else 0


@dataclass
class Progress:
    """How far it has come, for whoever watches."""

    stage: str = ""
    number: int = 0
    updates_in: int = 0
    accuracies: dict[int, float] = field(default_factory=dict)  # by round; one that passed quickly may be missing
    kills: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came out, each figure from the hub's files."""

    options: Options
    verdict: Verdict
    federated: list[float]  # accuracy before the first round, then after each
    central: list[float]
    kills: int
    kills_described: str
    seconds: float

    @property
    def updates(self) -> int:
        """Updates in aggregates."""
        return sum(aggregate.num_updates for aggregate in self.verdict.aggregates)

    @property
    def shortcomings(self) -> list[str]:
        """Why it has failed; nothing if it has not."""
        wanted = self.options.rounds * self.options.clients
        found = list(self.verdict.problems)
        if len(self.verdict.aggregates) != self.options.rounds:
            found.append(f"{len(self.verdict.aggregates)} of {self.options.rounds} rounds were posted")
        if self.verdict.submitted != wanted:
            found.append(f"{self.verdict.submitted} of {wanted} updates were accepted")
        if self.federated[-1] < self.central[-1] - MARGIN:
            found.append(f"accuracy {self.federated[-1]:.4f} is more than {MARGIN:g} below {self.central[-1]:.4f}")
        if self.kills < self.options.fewest_kills:
            found.append(f"{self.kills} kills are too few to show anything: {self.options.fewest_kills} are needed")
        return found

    @property
    def line(self) -> str:
        """The last line."""
        return (
            f"demo: accuracy {self.federated[-1]:.4f}, central {self.central[-1]:.4f}, "
            f"{len(self.verdict.aggregates)} rounds, {self.updates} updates, "
            f"{len(self.verdict.lost)} lost, {len(self.verdict.counted_twice)} counted twice"
        )


def play(options: Options, watch: Callable[[Progress], None]) -> Outcome:
    """Run it all and judge it. `watch` is called with the progress, several times a second.

    Raises: DemoFailed, DemoNeedsPackage, what starting a hub raises.
    """
    started = time.monotonic()
    progress = Progress("reading the digits")
    watch(progress)
    training, testing = load_digits(options.seed)
    parts = split_unevenly(training, options.clients, options.seed)
    initial = new_parameters(training.features.shape[1], 10, options.seed)
    hub = Supervisor(demo_settings(options))
    chaos = Chaos(
        lambda: [process.pid for process in hub.processes if process.role == "worker"],
        partial(_round_under_way, options.database),
        options.seed,
    )
    progress.stage = "starting a hub"
    watch(progress)
    with _started(hub), _client(options, hub.settings) as client:
        _create(client, options, initial)
        participants = _participants(options, parts, hub.settings)
        with _running(participants), _running_chaos(chaos) if options.chaos else nullcontext():
            progress.stage = "training"
            _watch_to_the_end(client, options.model_id, participants, testing, progress, lambda: watch(progress), chaos)
    progress.stage, progress.kills = "judging", chaos.total
    watch(progress)
    accepted = read_journals(options.home / "journals" / f"{child.name}.jsonl" for child in participants)
    reading = {} if options.storage is None else {"fetch": options.storage.fetch}
    verdict = judge(options.database, options.model_id, accepted, **reading)
    models = [initial, *(aggregate.arrays for aggregate in verdict.aggregates)]
    return Outcome(
        options=options,
        verdict=verdict,
        federated=[accuracy(model, testing.features, testing.labels) for model in models],
        central=_train_centrally(initial, training, testing, options),
        kills=chaos.total,
        kills_described=chaos.describe(),
        seconds=time.monotonic() - started,
    )


def demo_settings(options: Options) -> Settings:
    """A hub of the demonstration's own, wherever the environment's settings point."""
    home = options.home
    return load_settings(
        None,
        home=home,
        database_url=database_url_in(home),
        broker_url=broker_url_in(home),
        result_url=broker_url_in(home),
        store_url=store_url_in(home) if options.storage is None else options.storage.url,
    )


def _client(options: Options, settings: Settings) -> Client:
    # This process starts others all the while, and goes to no bucket itself: what that takes survives no fork.
    store_url = settings.store_url if options.storage is None else SIGNED_URLS
    return Client(settings.broker_url, settings.result_url, store_url)


def _create(client: Client, options: Options, initial: Parameters) -> None:
    client.create_model(
        model_id=options.model_id,
        name="digits",
        aggregator="fedavg",
        requirement="require_x_clients",
        # All of them: then a round's updates, and so its bytes, do not depend on who was quick.
        requirement_args={"x": options.clients},
        max_rounds=options.rounds,
        initial=initial,
    )


def _participants(options: Options, parts: list[Examples], settings: Settings) -> list[Child]:
    """The participants' processes, not started yet: each with a file of its own digits, and a registered client id."""
    folder, journals = options.home / "participants", options.home / "journals"
    folder.mkdir(parents=True, exist_ok=True)
    journals.mkdir(exist_ok=True)
    environment = {
        **{name: value for name, value in process_environment(settings).items() if not name.startswith(PREFIX)},
        # All that they are told of the hub: where it leaves its endpoint file.
        "FEDQUEUE_HOME": str(settings.home),
        # Ten processes on two cores: more threads each would only wait for one another.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    children = []
    with _client(options, settings) as client:
        for at, part in enumerate(parts):
            name = f"participant-{at + 1:02}"
            part.save(folder / f"{name}.npz")
            client_id = client.register_client(
                options.model_id, uuid5(_IDS, f"client {options.seed} {at}"), name
            ).client_id
            arguments = {
                "--model": options.model_id,
                "--client": client_id,
                "--examples": folder / f"{name}.npz",
                "--journal": journals / f"{name}.jsonl",
                "--rounds": options.rounds,
                "--seed": options.seed * 1000 + at,
                "--pause": _CHAOS_PAUSE if options.chaos else 0.0,
            }
            command = [sys.executable, "-m", "worker.demo.participant"]
            command += [str(word) for pair in arguments.items() for word in pair]
            own = environment if options.storage is None else options.storage.environment_of(at, environment)
            children.append(Child(name, "participant", command, own, options.home / "logs" / f"{name}.log"))
    return children


@contextmanager
def _started(hub: Supervisor) -> Iterator[None]:
    """The hub, started; ended in order even when a signal arrives while it starts."""
    try:
        hub.start()
        yield
    finally:
        hub.stop()


@contextmanager
def _running(children: list[Child]) -> Iterator[None]:
    """The processes, started; none is left afterwards."""
    try:
        for child in children:
            child.start()
        yield
    finally:
        for child in children:
            child.kill_family()


@contextmanager
def _running_chaos(chaos: Chaos) -> Iterator[None]:
    chaos.start()
    try:
        yield
    finally:
        chaos.stop()


def _round_under_way(database: Path) -> tuple[int, int] | None:
    """(number of the aggregate about to be posted, process that is about to), by the database itself."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=0.1)) as connection:
        try:
            row = connection.execute("SELECT number, worker FROM round WHERE state = 'CLAIMED' LIMIT 1").fetchone()
        except sqlite3.OperationalError:  # busy: then it is not known
            return None
    return None if row is None else (row[0], int(row[1].partition("@")[0]))


def _watch_to_the_end(
    client: Client,
    model_id: UUID,
    participants: list[Child],
    testing: Examples,
    progress: Progress,
    tell: Callable[[], None],
    chaos: Chaos,
) -> None:
    """Return when every participant has ended well. Raises: DemoFailed when one has not, or time is over."""
    deadline = time.monotonic() + _LONGEST_SECONDS
    while True:
        running = [child for child in participants if child.ended is None]
        for child in participants:
            if child.ended not in (None, "exit code 0"):
                raise DemoFailed(f"{child.name} ended with {child.ended}:\n{child.last_lines()}")
        _look(client, model_id, testing, progress)
        progress.kills = chaos.total
        tell()
        if not running:
            return
        if time.monotonic() > deadline:
            raise DemoFailed(f"{len(running)} participants have not ended within {_LONGEST_SECONDS:g} s")
        time.sleep(_LOOK_EVERY)


def _look(client: Client, model_id: UUID, testing: Examples, progress: Progress) -> None:
    try:
        model = client.get_model(model_id, timeout=1.0)
        open_updates = sum(model.updates.get(state, 0) for state in ("PENDING", "RUNNING", "FAILED"))
        progress.number, progress.updates_in = model.aggregates, open_updates
        if model.aggregates not in progress.accuracies:
            fetched = client.fetch_latest(model_id, timeout=1.0)
            progress.accuracies[fetched.number] = accuracy(fetched.arrays, testing.features, testing.labels)
    except FedqueueError:
        # Under chaos the hub is away now and then: what was seen last stays on show.
        return


def _train_centrally(initial: Parameters, training: Examples, testing: Examples, options: Options) -> list[float]:
    """The accuracy of one model trained on everybody's data, with as many passes over it as a participant makes."""
    model = initial
    accuracies = [accuracy(model, testing.features, testing.labels)]
    for number in range(options.rounds):
        model, _ = train(
            model, training.features, training.labels, epochs=LOCAL_EPOCHS, seed=options.seed * 1_000_003 + number
        )
        accuracies.append(accuracy(model, testing.features, testing.labels))
    return accuracies
