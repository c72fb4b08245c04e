"""What readers of a feed, of metrics and of progress are shown: records turned into the wire's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate
from typing import Final
from uuid import UUID

from connectors.metadata import BaseMetadataConnector
from connectors.plots import Plot, Series, plots_of
from connectors.records import ALL, FederatedModel, LogEntry, ProgressFacts, Sender, Trust
from connectors.run_states import FINAL
from fedqueue.messages import (
    LogsView,
    LogView,
    MetricsView,
    ParticipantView,
    PlotView,
    PointView,
    ProgressView,
    SeriesView,
)
from tasks.domain.claiming import why_not_begun
from tasks.domain.progress import Member, progress_of
from tasks.domain.rendering import render

_MOST_TEXT: Final = 1 << 20  # characters of free text and details in one page


@dataclass(frozen=True, slots=True)
class SenderNames:
    """Who stands behind the trusts' row ids and the client names of a model's entries."""

    trusts: Mapping[int, Trust]
    client_names: Mapping[str, str]  # what people call the model's own clients, by their UUID

    @classmethod
    def of(cls, metadata: BaseMetadataConnector, model: FederatedModel) -> SenderNames:
        """Those of the model, as they are called now."""
        clients = metadata.pull_model_clients(model)
        trusts = {trust.id: trust for trust in metadata.pull_trusts()}
        return cls(trusts, {str(client.uuid): client.name for client in clients if client.name})

    def trust_of(self, trust_id: int | None) -> str | None:
        """The trust's code, else its name."""
        trust = None if trust_id is None else self.trusts.get(trust_id)
        return None if trust is None else trust.label

    def name_of(self, trust_id: int | None, fl_client_name: str | None) -> str | None:
        """Whom an entry is about, as people say it."""
        trust = self.trust_of(trust_id)
        if trust is not None or fl_client_name is None:
            return trust
        return self.client_names.get(fl_client_name, fl_client_name)


# --- the feed -------------------------------------------------------------------------------------


def view_logs(
    metadata: BaseMetadataConnector, model: FederatedModel, run_id: UUID | None, after_id: int, limit: int
) -> LogsView:
    """A page of the feed, oldest first: `limit` entries, fewer where they are long."""
    # One more than is shown: it tells of a next page.
    found = metadata.pull_logs(model, after_id=after_id, limit=limit + 1, run_id=ALL if run_id is None else run_id)
    shown = found[: min(limit, _fitting(found))]
    names = SenderNames.of(metadata, model)
    return LogsView(
        model_id=model.uuid,
        entries=[view_log(entry, names) for entry in shown],
        next_after_id=shown[-1].id if len(found) > len(shown) else None,
    )


def _fitting(entries: Sequence[LogEntry]) -> int:
    """How many of them make one answer, at least one: it travels through the broker whole."""
    sizes = accumulate(len(entry.log or "") + len(str(entry.details)) for entry in entries)
    return max(1, sum(size <= _MOST_TEXT for size in sizes))


def view_log(entry: LogEntry, names: SenderNames) -> LogView:
    """One entry in words."""
    return LogView(
        id=entry.id,
        created_at=entry.created_at,
        text=render(entry),
        event_type=entry.event_type,
        success=entry.success,
        global_round=entry.global_round,
        sender=names.name_of(entry.trust_id, entry.fl_client_name),
        trust=names.trust_of(entry.trust_id),
        fl_client_name=entry.fl_client_name,
        run_id=entry.run_id,
        details=dict(entry.details),
    )


# --- metrics --------------------------------------------------------------------------------------


def view_metrics(metadata: BaseMetadataConnector, model: FederatedModel, run_id: UUID | None) -> MetricsView:
    """The model's plots, of one run or of all, told apart."""
    names = SenderNames.of(metadata, model)
    metrics = metadata.pull_metrics(model, run_id=ALL if run_id is None else run_id)
    plots = plots_of(metrics, names.trusts.values())
    return MetricsView(model_id=model.uuid, plots=[_view_plot(plot, names) for plot in plots])


def _view_plot(plot: Plot, names: SenderNames) -> PlotView:
    series = [_view_series(one, names) for one in plot.series]
    return PlotView(label=plot.label, x_label=plot.x_label, series=series)


def _view_series(series: Series, names: SenderNames) -> SeriesView:
    return SeriesView(
        sender=names.name_of(None if series.trust is None else series.trust.id, series.fl_client_name),
        trust=None if series.trust is None else series.trust.label,
        trust_id=None if series.trust is None else series.trust.uuid,
        fl_client_name=series.fl_client_name,
        run_id=series.run_id,
        points=[
            PointView(
                x_value=point.x_value,
                result=point.result,
                global_round=point.global_round,
                created_at=point.created_at,
            )
            for point in series.points
        ],
    )


# --- progress -------------------------------------------------------------------------------------


def view_progress(metadata: BaseMetadataConnector, model: FederatedModel) -> ProgressView:
    """How far the model's present run has come.

    Its participants are the trusts approved for it; of a model without any, its registered clients, under their trusts'
    names where they have one.
    """
    facts = metadata.pull_progress_facts(model, model.run_id)
    members, same = _members(metadata, model)
    senders = SenderNames.of(metadata, model)
    names: dict[Sender, str] = {trust.id: trust.label for trust in senders.trusts.values()}
    names.update(senders.client_names.items())
    progress = progress_of(
        _under_one_key(facts, same),
        members,
        max_rounds=model.max_rounds,
        is_over=model.status in FINAL,
        now=datetime.now(UTC),
        names=names,
    )
    not_begun = why_not_begun(metadata, model)
    return ProgressView(
        model_id=model.uuid,
        status=model.status,
        run_id=model.run_id,
        current_round=progress.current_round,
        completed_rounds=progress.completed_rounds,
        total_rounds=progress.total_rounds,
        participants=[
            ParticipantView(
                name=each.member.name, trust_id=each.member.trust_id, state=each.state, last_round=each.last_round
            )
            for each in progress.participants
        ],
        last_event_at=facts.last_event_at,
        eta_seconds=progress.eta_seconds,
        next_aggregate="due" if not_begun is None else not_begun.outcome,
        waits_for="" if not_begun is None else not_begun.reason,
    )


def _members(metadata: BaseMetadataConnector, model: FederatedModel) -> tuple[list[Member], dict[Sender, Sender]]:
    """Those who are meant to take part, and by what other keys their entries may name them."""
    approved = metadata.pull_model_trusts([model])[model.id]
    if approved:
        return [Member(trust.id, trust.label, trust.uuid) for trust in approved], {}
    trusts = {trust.id: trust for trust in metadata.pull_trusts()}
    members: dict[Sender, Member] = {}
    same: dict[Sender, Sender] = {}
    for client in metadata.pull_model_clients(model):
        uuid = str(client.uuid)
        trust = None if client.trust_id is None else trusts.get(client.trust_id)
        member = Member(uuid, client.name or uuid) if trust is None else Member(trust.id, trust.label, trust.uuid)
        members.setdefault(member.key, member)
        same[uuid] = member.key  # what it did before it was assigned to a trust is its own
    return list(members.values()), same


def _under_one_key(facts: ProgressFacts, same: Mapping[Sender, Sender]) -> ProgressFacts:
    """The facts with each sender under the key of its member."""

    def merged(rounds: Mapping[Sender, int]) -> dict[Sender, int]:
        found: dict[Sender, int] = {}
        for sender, number in rounds.items():
            key = same.get(sender, sender)
            found[key] = max(number, found.get(key, 0))
        return found

    return replace(facts, returned=merged(facts.returned), dropped=merged(facts.dropped))
