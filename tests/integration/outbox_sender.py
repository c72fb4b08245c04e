"""A process that sends what waits in the outbox until it is killed, every fifth of its sends failing in the middle.

`python -m tests.integration.outbox_sender`; the environment says where the database and the broker are.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from config.loading import load_settings
from tasks.domain.notifications import send_waiting
from worker.bootstrap import HubCelery


def main() -> None:
    """Send until killed."""
    app = HubCelery(load_settings(None))
    send = app.hub.send
    dice = random.Random()
    # Counted, not drawn: by chance alone there would be runs in which nothing is sent twice.
    numbers = itertools.count(1)

    def breaks_now_and_then(task: str, message: Mapping[str, Any], queue: str | None) -> None:
        number = next(numbers)
        if number % 10 == 0:
            raise ConnectionError("lost before the broker had it")
        send(task, message, queue)
        if number % 10 == 5:
            raise ConnectionError("lost after the broker had it, before this process knew")

    hub = replace(app.hub, send=breaks_now_and_then)
    while True:
        with suppress(ConnectionError):
            # Few at once, so that the two senders take turns in the middle of a model's messages.
            send_waiting(hub, limit=dice.randint(1, 20))
        time.sleep(dice.uniform(0, 0.01))


if __name__ == "__main__":
    main()
