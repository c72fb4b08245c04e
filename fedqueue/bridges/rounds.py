"""The rounds of an FL server that asks, collects and decides itself, and leaves the aggregating to a hub.

While the server collects, the model's next aggregate is not released. When the server says that a round's updates are
in, it is: the hub runs the round over what is there. What the server knows dies with it, the hub's aggregates do not: a
server that is started anew goes on at the round it was in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Final
from uuid import UUID, uuid5

from fedqueue.arguments import PolicyFields
from fedqueue.client import Client
from fedqueue.errors import InvalidArgument, Rejected, RoundNotPosted, UpdateRejected
from fedqueue.messages import LatestView, ModelView, ProgressView
from fedqueue.model_calls import FetchedModel
from fedqueue.payload import ModelData

# The requirement of a model whose aggregates are made up to a number that its server gives.
_RELEASED: Final = "released"
# No round can follow in such a run; a server that goes on begins a new one.
_OVER: Final = ("ERROR", "RESULTS_UPLOADED", "RESULTS_UPLOAD_FAILED")
# So many rounds in a row that come to nothing are no bad luck: a training that can't succeed ends, and says why.
_MOST_LOST: Final = 3
# How often a server that waits looks whether there is still something to wait for.
_LOOK_SECONDS: Final = 2.0
# Of what an update may carry beside its arrays; the rest is for the plots, which have no such limit.
_LONGEST_METRIC: Final = 100
_MOST_METRICS: Final = 100


class NothingPosted(RoundNotPosted):
    """A round's updates make no aggregate: too few for its aggregator, which wait for others, or none at all."""


class ServerRounds:
    """One model's. `made_by` names the server's make: in the hub's audit, and in the ids of what it sends.

    `policy`: fields of `Client.create_model`, for a model that is not there yet. `timeout` (seconds) is
    how long a round that is under way waits for a hub that is away, and for the aggregate; at the beginning the
    client's own time counts.
    Raises: InvalidArgument for a policy that is the server's own affair.
    """

    def __init__(
        self, hub: Client, model_id: UUID, made_by: str, policy: PolicyFields | None = None, timeout: float = 600.0
    ) -> None:
        self._hub = hub
        self._model_id = model_id
        self._made_by = made_by
        # An update that comes late, as of a server that was killed, was trained from another model than its round's.
        self._policy: dict[str, Any] = {"furthest_base_agg": 1, **(policy or {})}
        self._timeout = timeout
        self._base: LatestView | None = None
        self._newest: LatestView | None = None  # as far as this server knows
        self._released: int | None = None  # likewise; None: it is not known
        self._registered: set[UUID] = set()
        self._lost = 0  # rounds since the last that came to something
        own = {"allow_repeats", "max_rounds", "requirement", "requirement_args", "initial"} & self._policy.keys()
        if own:
            raise InvalidArgument("policy", f"{', '.join(sorted(own))} can't be given: the server's rounds decide it")

    def watch(self) -> None:
        """Let there be a model of which the server only tells: it aggregates itself."""
        if self._find() is None:
            self._create()

    def _find(self) -> ModelView | None:
        try:
            return self._hub.get_model(self._model_id)
        except Rejected as refusal:
            if refusal.kind != "UnknownModel":
                raise
        return None

    def _create(self, **fields: Any) -> ModelView:
        return self._hub.create_model(model_id=self._model_id, user_id=self._made_by, **{**self._policy, **fields})

    def begin(self, initial: Callable[[], ModelData], num_rounds: int | None) -> FetchedModel:
        """What the training begins with, and at which number: the hub's newest aggregate, or `initial` as number 0.

        After `num_rounds` the model's run is over (None: when the server says so).
        Raises: RoundNotPosted if somebody stopped the model, InvalidArgument if the model aggregates otherwise than the
        policy says.
        """
        model = self._find()
        if model is None:
            model = self._create(
                initial=initial(), max_rounds=num_rounds, requirement=_RELEASED, requirement_args={"number": 0}
            )
        else:
            self._check_aggregation(model)
        if num_rounds is None or model.aggregates < num_rounds:
            self._go_on(model, num_rounds)
            self._released = _released_by(model)
            if self._released is not None and self._released > model.aggregates:
                # The round was complete when the server before this one ended: the hub is about to post it, if it can.
                with suppress(NothingPosted):
                    self._wait(after=model.aggregates)
        fetched = self._hub.fetch_latest(self._model_id)
        self._newest = fetched.latest
        return fetched

    def _check_aggregation(self, model: ModelView) -> None:
        asked = {"aggregator": self._policy.get("aggregator", model.aggregator)}
        has = {"aggregator": model.aggregator}
        params = self._policy.get("aggregator_params")
        if isinstance(params, Mapping):
            # A parameter that the hub has written in another form is no other one.
            plain = {name: value for name, value in params.items() if isinstance(value, bool | int | float)}
            asked |= plain
            has |= {name: model.aggregator_params.get(name) for name in plain}
        unlike = [f"{name} {has[name]!r}, not {asked[name]!r}" for name in asked if has[name] != asked[name]]
        if unlike:
            raise InvalidArgument(
                "model_id",
                f"{self._model_id} was made with {', '.join(unlike)}: a training of its own needs a model_id of its "
                "own (to change this one's: Client.edit_model)",
            )

    def _go_on(self, model: ModelView, num_rounds: int | None) -> None:
        if model.status == "STOPPED":
            raise RoundNotPosted(
                f"model {self._model_id} was stopped at aggregate {model.aggregates}: whoever stopped it may start a "
                "new run of it (Client.start_run)",
                model.aggregates,
            )
        if model.max_rounds != num_rounds:
            self._hub.edit_model(self._model_id, user_id=self._made_by, max_rounds=num_rounds)
        if model.status in _OVER:
            self._hub.start_run(self._model_id, user_id=self._made_by)

    def _wait(self, after: int) -> LatestView:
        """The aggregate above that number, once the hub has it.

        Raises: NothingPosted as soon as the hub says that more updates would have to come, RoundNotPosted.
        """
        until = time.monotonic() + self._timeout
        while True:
            left = max(until - time.monotonic(), 0.001)
            try:
                return self._hub.wait_for_aggregate(self._model_id, after=after, timeout=min(left, _LOOK_SECONDS))
            except RoundNotPosted as late:
                model = self._hub.get_model(self._model_id, timeout=self._timeout)
                if model.aggregates > after:
                    return self._hub.latest(self._model_id, timeout=self._timeout)
                if model.status == "STOPPED" or model.status in _OVER:
                    raise
                why = "its server's word was taken back"
                if _released_by(model) != after + 1:
                    # An older word has come after this server's, as by a message that was delivered twice.
                    self._release(after + 1)
                else:
                    # After the counts: what a dead worker had may have come back since they were taken.
                    progress = self._hub.progress(self._model_id, timeout=self._timeout)
                    why = f"{progress.next_aggregate}, {progress.waits_for}"
                    if progress.next_aggregate in ("waiting", "idle") and not model.updates.get("RUNNING"):
                        return self._end_of_round(after, progress, late)
                if time.monotonic() >= until:
                    raise RoundNotPosted(
                        f"model {self._model_id} posted no aggregate above {after} within {self._timeout:g} s: {why}",
                        after,
                    ) from late

    def _end_of_round(self, after: int, progress: ProgressView, late: RoundNotPosted) -> LatestView:
        """The aggregate that the hub has posted meanwhile. Raises: NothingPosted if it has not, and will not now."""
        # First: what still comes for the round waits, as before, until its server says again that it is complete.
        self._release(after)
        latest = self._hub.latest(self._model_id, timeout=self._timeout)
        if latest.number > after:
            return latest
        reason = progress.waits_for
        if progress.next_aggregate == "idle":
            refusals = [line.text for line in self._hub.iter_logs(self._model_id) if not line.success]
            reason += f"; the hub's last refusal: {refusals[-1] if refusals else 'none'}"
        raise NothingPosted(f"model {self._model_id}: no aggregate {after + 1}: {reason}", after) from late

    def open(self) -> LatestView:
        """A round begins: the hub waits, and what it has now is what the participants train from."""
        if self._newest is None:
            self._newest = self._hub.latest(self._model_id, timeout=self._timeout)
        self._base = self._newest
        if self._released != self._base.number:
            self._release(self._base.number)
        return self._base

    def _release(self, number: int) -> None:
        """Let the hub make aggregates up to that number, and no more."""
        self._hub.edit_model(
            self._model_id,
            user_id=self._made_by,
            timeout=self._timeout,
            requirement=_RELEASED,
            requirement_args={"number": number},
        )
        self._released = number

    def submit(
        self,
        participant: str,
        data: ModelData,
        *,
        num_examples: float,
        num_steps: float | None = None,
        loss: float | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> str | None:
        """Why a participant's update is in no round; None if it will be. A repeat of the same data counts once.

        What is wrong with one update is answered, whoever finds it. Raises: Rejected (of the model, as when it was
        stopped), Unanswered, StoreUnreachable.
        """
        base = self._base
        assert base is not None, "a round is opened before its updates come"
        # The same after every restart: what the participant sends for a round replaces what it sent before.
        client_id = uuid5(self._model_id, f"{self._made_by} client {participant}")
        if client_id not in self._registered:
            self._hub.register_client(self._model_id, client_id, name=participant, timeout=self._timeout)
            self._registered.add(client_id)
        said = {key: value for key, value in (metrics or {}).items() if len(key) <= _LONGEST_METRIC}
        try:
            payload = self._hub.put(data)
            # The hub's own count: a server's goes on over a round that posted nothing, and is another after a restart.
            numbers = f"{num_examples} {num_steps} {loss}"
            of_what = f"{self._made_by} round {base.number + 1} {participant} {payload.digest} {numbers}"
            self._hub.submit_update(
                self._model_id,
                client_id,
                payload,
                num_examples=num_examples,
                num_steps=None if num_steps is None or num_steps < 1 else int(num_steps),
                loss=loss,
                base_aggregate=base.aggregate_id,
                metrics=dict(islice(said.items(), _MOST_METRICS)),
                submission_id=uuid5(self._model_id, of_what),
                timeout=self._timeout,
                patience=self._timeout,
            )
        except (UpdateRejected, InvalidArgument) as refusal:
            # The hub may have gone on without this server's knowing, as by the last word of the one before it.
            self._newest = None
            return str(refusal)
        except Rejected as refusal:
            # The same arrays, handed over before a restart with other numbers beside them, such as the time they took.
            if refusal.kind != "SubmissionReused":
                raise
        return None

    def close(self) -> FetchedModel:
        """The round's updates are in: the hub's next aggregate.

        Raises: NothingPosted (at once: the updates make none, the next round may be opened), RoundNotPosted (in time,
        or when too many rounds in a row came to nothing), Unanswered.
        """
        base, self._newest = self._base, None
        assert base is not None, "a round is opened before it is closed"
        self._release(base.number + 1)
        try:
            self._newest = self._wait(after=base.number)
        except NothingPosted as nothing:
            self._lost += 1
            if self._lost == _MOST_LOST:
                why = f"{nothing}; {self._lost} rounds in a row came to nothing"
                raise RoundNotPosted(why, base.number) from nothing
            # Its participants train from the same again, whatever the hub may come to meanwhile.
            self._newest = base
            raise NothingPosted(f"{nothing} ({self._lost} of {_MOST_LOST} in a row)", base.number) from nothing
        self._lost = 0
        return self._hub.fetch(self._newest, timeout=self._timeout)

    def catch_up(self) -> FetchedModel | None:
        """What the hub has come to without this round, of which every update was refused; None if it stands as it did.

        The server before this one may have said that the round was complete, and been killed before the hub heard it.
        """
        assert self._base is not None, "a round is opened before it is given up"
        newest = self._hub.latest(self._model_id, timeout=self._timeout)
        self._newest = newest
        return self._hub.fetch(newest, timeout=self._timeout) if newest.number > self._base.number else None


def _released_by(model: ModelView) -> int | None:
    """Up to which aggregate the model is released; None if that is not what its rounds wait for."""
    return model.requirement_args["number"] if model.requirement == _RELEASED and model.requirement_args else None
