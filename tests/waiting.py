"""A thread that is to wait for a lock of the database's: watched until it does, however slow it is on its way there."""

from __future__ import annotations

import threading
from typing import Any, Final

from sqlalchemy import Engine, event

_LOOK_SECONDS: Final = 0.01
# In a row, all at one and the same statement. Looks, not seconds: while the machine stands still, nobody looks.
_LOOKS: Final = 30


class _Statements:
    """Those of all threads but the one that made this: how many have begun, and whether the last is under way."""

    def __init__(self) -> None:
        self.begun = 0
        self.is_one_under_way = False
        self._caller = threading.get_ident()

    def begins(self, *_: Any) -> None:
        if threading.get_ident() != self._caller:
            self.begun, self.is_one_under_way = self.begun + 1, True

    def ends(self, *_: Any) -> None:
        if threading.get_ident() != self._caller:
            self.is_one_under_way = False


def run_until_it_waits(thread: threading.Thread, connector: object) -> None:
    """Start it; return when one of its statements with the connector has waited for a while, or when all is over."""
    engine = getattr(connector, "engine", None)
    if not isinstance(engine, Engine):
        # In memory: it waits as soon as it runs, for nobody but us.
        thread.start()
        thread.join(_LOOKS * _LOOK_SECONDS)
        return
    statements = _Statements()
    listeners = {
        "before_cursor_execute": statements.begins,
        "after_cursor_execute": statements.ends,
        "handle_error": statements.ends,
    }
    for name, listener in listeners.items():
        event.listen(engine, name, listener)
    try:
        thread.start()
        looks = 0
        while thread.is_alive() and looks < _LOOKS:
            before = statements.begun
            thread.join(_LOOK_SECONDS)
            looks = looks + 1 if statements.is_one_under_way and statements.begun == before else 0
    finally:
        for name, listener in listeners.items():
            event.remove(engine, name, listener)
