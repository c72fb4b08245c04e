"""Which pools a worker may have, and what each can promise its broker."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from celery.concurrency import get_implementation

from config.loading import load_settings
from worker.bootstrap import HubCelery
from worker.signals import _check_pool


@pytest.mark.parametrize(("pool", "held"), [("prefork", 60.0), ("solo", None)])
def test_only_a_worker_whose_main_loop_is_free_says_that_it_lives(
    tmp_path: Path, pool: str, held: float | None
) -> None:
    """A solo worker at a task of ten minutes would have its message given to others ten times."""
    app = HubCelery(load_settings(env_file=None, home=tmp_path, broker_url="redis://127.0.0.1:1/0"))
    _check_pool(SimpleNamespace(pool_cls=get_implementation(pool), app=app))
    assert app.conf.broker_transport_options.get("held_seconds") == held
    with app.connection_for_read() as connection:
        assert connection.transport_options.get("held_seconds") == held


def test_a_pool_of_threads_is_refused(tmp_path: Path) -> None:
    app = HubCelery(load_settings(env_file=None, home=tmp_path, broker_url="memory://"))
    with pytest.raises(SystemExit, match="prefork"):
        _check_pool(SimpleNamespace(pool_cls=get_implementation("threads"), app=app))
