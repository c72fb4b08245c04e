"""A look at the store when a worker starts: a new one is begun, one that is away is spoken of."""

from __future__ import annotations

import multiprocessing

import structlog

from config.settings import PREFIX, Settings
from connectors.errors import DatabaseUnavailable, StoreMisconfigured, StoreUnavailable
from fedqueue.buckets import is_bucket
from worker.bootstrap import build_metadata, build_model_data

log = structlog.get_logger(__name__)


def look_at_store(settings: Settings) -> None:
    """Return when it is known to be there, or not; without it a worker does the work that needs none.

    Here and not at the first use: clients on this machine write into the store, and begin none.
    """
    if is_bucket(settings.store_url):
        # This is the pool's parent: what obstore runs on does not survive a fork, so it may not begin here.
        looking = multiprocessing.get_context("fork").Process(target=_look, args=(settings,), daemon=True)
        looking.start()
        looking.join()
    else:
        _look(settings)


def _look(settings: Settings) -> None:
    metadata = build_metadata(settings)
    try:
        build_model_data(settings, metadata).check()
    except StoreMisconfigured as error:
        log.error("the store can't be used before its owner acts", setting=f"{PREFIX}STORE_URL", reason=str(error))
    except (DatabaseUnavailable, StoreUnavailable) as error:
        log.warning("the store can't be used now", reason=str(error))
    finally:
        # A connection left open here would be inherited by every child.
        metadata.close()
