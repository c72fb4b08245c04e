"""A Flower Strategy whose rounds are the hub's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from logging import ERROR, INFO
from typing import Unpack
from uuid import uuid4

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result, Strategy
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from flwr.supercore import log

from fedqueue.arguments import Id, PolicyFields, as_uuid
from fedqueue.bridges.rounds import NothingPosted, ServerRounds
from fedqueue.bridges.telling import Telling
from fedqueue.client import Client
from fedqueue.errors import FedqueueError, InvalidArgument
from fedqueue.flower.arrivals import ArrivalGrid
from fedqueue.flower.replies import Reply, UnreadableReply, identity_of, numbers_of, read_reply
from fedqueue.model_calls import FetchedModel

# Submissions are waited for: so many at once, each an update in the memory of this process and of a worker.
_AT_ONCE = 4


class HubStrategy(Strategy):
    """Another strategy's choice of clients, the hub's aggregation. Each reply is handed to the hub as it comes.

    `inner` (FedAvg() if none is given) samples the clients, configures training and evaluation and combines the
    metrics; what it would make of the arrays is not asked for, unless `observe_only`: then Flower aggregates as ever,
    and the hub is told of it. One that aggregates in a way of its own (FedAdam, …) is taken only with an `aggregator`.

    `model_id` names the hub's model. It is created when it is started first, with Flower's initial arrays and the
    policy given here (`aggregator`, `aggregator_params` and the other fields of `fedqueue.Client.create_model`), and
    found again under the same id by a ServerApp that is started anew: give each training one of its own.

    `identify` tells who sent a reply, and must answer the same after a restart: by default the metric `partition-id`
    if the reply has one, else the node's id. What a participant sends twice in one round counts once.
    `slot_of` gives the name under which the hub knows its institution (None: none), for its metrics and failures.
    `num_steps_key` and `loss_key` name the metrics that fednova, scaffold and qfedavg need.
    """

    def __init__(
        self,
        inner: Strategy | None = None,
        *,
        model_id: Id,
        hub: Client | None = None,
        observe_only: bool = False,
        identify: Callable[[Message], str] = identity_of,
        slot_of: Callable[[str], str | None] | None = None,
        num_steps_key: str = "num-steps",
        loss_key: str = "train-loss",
        timeout: float = 600.0,
        **policy: Unpack[PolicyFields],
    ) -> None:
        """Connects to nothing yet. Raises: InvalidArgument, EndpointUnknown."""
        self.inner = FedAvg() if inner is None else inner
        if not observe_only and "aggregator" not in policy:
            _check_averages(self.inner)
        self.model_id = as_uuid(model_id, "model_id")
        self.hub = Client() if hub is None else hub
        self.observe_only = observe_only
        self._identify = identify
        self._num_steps_key, self._loss_key = num_steps_key, loss_key
        self._rounds = ServerRounds(self.hub, self.model_id, "flower", policy, timeout)
        # What Flower aggregates itself begins anew with every start; what the hub aggregates goes on.
        run_id = uuid4() if observe_only else None
        self._telling = Telling(self.hub, self.model_id, "flower", slot_of or (lambda _: None), run_id)
        self._rounds_before = 0
        self._num_rounds = 0
        self._asked = 0
        self._handing_in = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fedqueue-flower")
        self._handed_in: dict[int, tuple[Message, Future[str | None]]] = {}  # by the reply's id() in this process

    # --- a training -------------------------------------------------------------------------------

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """The training's outcome, as of Flower's own; rounds that the hub has already are not done again.

        Raises: Rejected, RoundNotPosted (the hub posted no aggregate in time, or was told to stop), Unanswered.
        """
        self._num_rounds = num_rounds
        arrays = self._begin(initial_arrays)
        before = self._rounds_before

        def evaluate(server_round: int, given: ArrayRecord) -> MetricRecord | None:
            assert evaluate_fn is not None
            metrics = evaluate_fn(before + server_round, given)
            if metrics is not None:
                self._telling.metrics("central", before + server_round, numbers_of(metrics))
            return metrics

        try:
            result = super().start(
                grid if self.observe_only else ArrivalGrid(grid, self._hear),
                arrays,
                num_rounds - before,
                timeout,
                train_config,
                evaluate_config,
                None if evaluate_fn is None else evaluate,
            )
        except BaseException as error:
            self._tell_end("ERROR", f"the ServerApp failed: {type(error).__name__}: {error}")
            raise
        self._tell_end("RESULTS_UPLOADED")
        if before and not result.arrays:
            # No round was left, or none of those that were gave anything.
            result.arrays = arrays
        for by_round in (
            result.train_metrics_clientapp,
            result.evaluate_metrics_clientapp,
            result.evaluate_metrics_serverapp,
        ):
            moved = {before + server_round: metrics for server_round, metrics in by_round.items()}
            by_round.clear()
            by_round.update(moved)
        return result

    def summary(self) -> None:
        """What Flower logs at the start."""
        who = "Flower, told to the hub" if self.observe_only else "the hub"
        log(INFO, "\t├──> Aggregated by %s: model %s, %d rounds before", who, self.model_id, self._rounds_before)
        self.inner.summary()

    def _begin(self, initial_arrays: ArrayRecord) -> ArrayRecord:
        """The arrays to begin with, and how many rounds there are already: both the hub's."""
        if self.observe_only:
            self._rounds.watch()
            self._telling.status("INITIATED")
            self._telling.status("RUNNING")
            return initial_arrays
        newest = self._rounds.begin(lambda: dict(initial_arrays), self._num_rounds)
        self._rounds_before = min(newest.number, self._num_rounds)
        return _record(newest, initial_arrays)

    def _tell_end(self, status: str, failure: str | None = None) -> None:
        try:
            if failure is not None:
                self._telling.failure(self._rounds_before, "server", failure)
            self._telling.send_all()
            self._telling.status(status)
        except FedqueueError as error:
            # What ended the training is what its caller has to hear.
            log(ERROR, "the hub was not told that the training ended as %s: %s", status, error)

    # --- a round ----------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The inner strategy's messages; what they train from is remembered as the replies' base."""
        number = self._rounds_before + server_round
        messages = list(self.inner.configure_train(number, arrays, config, grid))
        self._asked = len(messages)
        self._handed_in.clear()
        if self.observe_only:
            self._telling.event("ROUND_STARTED", number, total_rounds=self._num_rounds)
        else:
            self._rounds.open()
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The hub's next aggregate, and the metrics of the replies that are in it."""
        number = self._rounds_before + server_round
        given = list(replies)
        readable = self._read(number, given)
        if self.observe_only:
            arrays, metrics = self._observe(number, given, readable)
        else:
            arrays, metrics = self._aggregate(number, readable)
        self._telling.metrics("train", number, numbers_of(metrics))
        # Once the round is over nobody tells these again, whatever becomes of this process.
        self._telling.send()
        return arrays, metrics

    def _observe(
        self, number: int, given: list[Message], readable: list[tuple[Message, Reply]]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        for _, reply in readable:
            self._telling.event("CLIENT_RESULT_RECEIVED", number, reply.participant, size_bytes=reply.num_bytes)
        arrays, metrics = self.inner.aggregate_train(number, given)
        if arrays is not None:
            self._telling.event("ROUND_AGGREGATED", number, returned=len(readable), expected=self._asked)
        return arrays, metrics

    def _aggregate(
        self, number: int, readable: list[tuple[Message, Reply]]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        accepted = []
        for message, reply in readable:
            refusal = self._hand_in(message, reply).result()
            if refusal is None:
                accepted.append((message, reply))
            else:
                self._telling.failure(number, reply.participant, f"the update was refused: {refusal}")
        if not accepted:
            # Flower goes on with the arrays that it had; were the hub ahead of them, its next round would be of others.
            ahead = self._rounds.catch_up() if readable else None
            return (None if ahead is None else _record(ahead, readable[0][1].arrays)), None
        try:
            newest = self._rounds.close()
        except NothingPosted as nothing:
            # As when no reply can be used: what there is waits at the hub for the next round's.
            log(ERROR, "round %d: %s", number, nothing)
            self._telling.failure(number, "server", str(nothing))
            return None, None
        contents = [message.content for message, _ in accepted]
        combine = getattr(self.inner, "train_metrics_aggr_fn", aggregate_metricrecords)
        return _record(newest, accepted[0][1].arrays), combine(contents, self._weight_key)

    def _hear(self, message: Message) -> None:
        """A reply has come: its update goes to the hub at once; what is wrong with it is told at the round's end."""
        if message.metadata.message_type.partition(".")[0] != MessageType.TRAIN or message.has_error():
            return
        with suppress(UnreadableReply):
            self._hand_in(message, self._reply(message))

    def _hand_in(self, message: Message, reply: Reply) -> Future[str | None]:
        """Once for each message: why the hub did not take its update, None if it did."""
        if id(message) not in self._handed_in:
            self._handed_in[id(message)] = message, self._handing_in.submit(self._submit, reply)
        return self._handed_in[id(message)][1]

    def _submit(self, reply: Reply) -> str | None:
        return self._rounds.submit(
            reply.participant,
            dict(reply.arrays),
            num_examples=reply.num_examples,
            num_steps=reply.numbers.get(self._num_steps_key),
            loss=reply.numbers.get(self._loss_key),
            metrics=reply.numbers,
        )

    def _reply(self, message: Message) -> Reply:
        return read_reply(message, self._identify(message), self._weight_key)

    def _read(self, number: int, replies: list[Message]) -> list[tuple[Message, Reply]]:
        """The replies of which updates can be made; the others are told as failures. Raises: InvalidArgument."""
        readable: list[tuple[Message, Reply]] = []
        nodes: dict[str, int] = {}
        for message in replies:
            participant = self._identify(message)
            node = message.metadata.src_node_id
            if nodes.setdefault(participant, node) != node and not self.observe_only:
                raise InvalidArgument(
                    "identify",
                    f"nodes {nodes[participant]} and {node} are both called {participant!r}, and only one would "
                    "count: let each ClientApp send a partition-id of its own, or give `identify`",
                )
            if message.has_error():
                self._telling.failure(number, participant, f"the ClientApp failed: {message.error.reason}")
                continue
            try:
                reply = self._reply(message)
            except UnreadableReply as error:
                self._telling.failure(number, participant, str(error))
                continue
            if any(other.participant == participant and other.digest == reply.digest for _, other in readable):
                continue  # it comes twice: its metrics count once, too
            self._telling.metrics("train", number, reply.numbers, participant)
            readable.append((message, reply))
        return readable

    @property
    def _weight_key(self) -> str:
        return str(getattr(self.inner, "weighted_by_key", "num-examples"))

    # --- evaluation: Flower's own, told to the hub ------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As the inner strategy does."""
        number = self._rounds_before + server_round
        return list(self.inner.configure_evaluate(number, arrays, config, grid))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """As the inner strategy does."""
        number = self._rounds_before + server_round
        given = list(replies)
        for message in given:
            participant = self._identify(message)
            if message.has_error():
                reason = f"the ClientApp failed to evaluate: {message.error.reason}"
                self._telling.failure(number, participant, reason)
                continue
            for metrics in message.content.metric_records.values():
                self._telling.metrics("evaluate", number, numbers_of(metrics), participant)
        combined = self.inner.aggregate_evaluate(number, given)
        self._telling.metrics("evaluate", number, numbers_of(combined))
        return combined


def _check_averages(inner: Strategy) -> None:
    """Raises: InvalidArgument if it aggregates in another way than FedAvg, which the hub would not follow."""
    if type(inner).aggregate_train is not FedAvg.aggregate_train:
        kind = type(inner).__name__
        raise InvalidArgument(
            "aggregator",
            f"{kind} aggregates in a way of its own, and the hub aggregates in its place: name the hub's aggregator "
            '(aggregator="fedadam", aggregator_params={"eta": 0.1}; "fedavg" for the mean), or let Flower aggregate: '
            "observe_only=True",
        )


def _record(model: FetchedModel, like: ArrayRecord) -> ArrayRecord:
    """The hub's arrays in the order of that record. Raises: InvalidArgument."""
    if model.arrays.keys() != like.keys():
        unlike = sorted(model.arrays.keys() ^ like.keys())
        raise InvalidArgument("initial_arrays", f"and the hub's model differ in {', '.join(unlike)}")
    return ArrayRecord({name: Array(model.arrays[name]) for name in like})
