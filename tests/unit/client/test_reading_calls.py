"""What the client asks for when it reads a run, and how it goes through a feed page by page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from fedqueue import Client, InvalidArgument
from fedqueue.answers import Reply
from fedqueue.messages import names as wire

MODEL = UUID(int=1)
RUN = UUID(int=2)


class PagedHub:
    """A hub whose feed has so many entries, with the ids 1, 2, 3, …"""

    def __init__(self, entries: int) -> None:
        self.sent: list[tuple[str, Mapping[str, Any]]] = []
        self._entries = entries

    def send(self, task: str, message: Mapping[str, Any], *, task_id: str, answered: bool) -> None:
        self.sent.append((task, message))

    def receive(self, task_id: str, seconds: float) -> Reply | None:
        task, message = self.sent[-1]
        view: dict[str, Any] = {"model_id": str(MODEL)}
        if task == wire.LOGS_LIST:
            ids = range(message["after_id"] + 1, self._entries + 1)[: message["limit"]]
            view["entries"] = [{"id": number, "text": f"entry {number}"} for number in ids]
            view["next_after_id"] = ids[-1] if ids and ids[-1] < self._entries else None
        elif task == wire.METRICS_GET:
            view["plots"] = []
        else:
            view["status"] = "RUNNING"
        return Reply(value={"value": view})

    def close(self) -> None:
        pass


@pytest.mark.parametrize("entries", [0, 1, 6, 7])
def test_every_entry_of_a_feed_is_read_once(entries: int) -> None:
    hub = PagedHub(entries)
    found = list(Client(transport=hub).iter_logs(MODEL, page=3))
    assert [entry.text for entry in found] == [f"entry {number}" for number in range(1, entries + 1)]
    assert len(hub.sent) == max(1, -(-entries // 3))


def test_a_feed_is_read_on_from_where_it_was_left() -> None:
    hub = PagedHub(7)
    assert [entry.id for entry in Client(transport=hub).iter_logs(MODEL, after_id=5)] == [6, 7]


def test_a_page_says_which_run_is_meant() -> None:
    hub = PagedHub(7)
    view = Client(transport=hub).logs(MODEL, run_id=RUN, after_id=2, limit=2)
    assert ([entry.id for entry in view.entries], view.next_after_id) == ([3, 4], 4)
    ((task, message),) = hub.sent
    assert task == wire.LOGS_LIST
    assert (message["model_id"], message["run_id"]) == (str(MODEL), str(RUN))


def test_metrics_and_progress_are_asked_for_by_model() -> None:
    hub = PagedHub(0)
    client = Client(transport=hub)
    assert client.metrics(MODEL, run_id=RUN).plots == []
    assert client.progress(MODEL).status == "RUNNING"
    assert [(task, message["model_id"]) for task, message in hub.sent] == [
        (wire.METRICS_GET, str(MODEL)),
        (wire.MODELS_PROGRESS, str(MODEL)),
    ]


@pytest.mark.parametrize(("field", "value"), [("limit", 0), ("limit", 1_001), ("after_id", -1), ("run_id", "first")])
def test_what_the_hub_would_refuse_is_not_sent(field: str, value: Any) -> None:
    hub = PagedHub(0)
    with pytest.raises(InvalidArgument, match=field):
        Client(transport=hub).logs(MODEL, **{field: value})
    assert hub.sent == []
