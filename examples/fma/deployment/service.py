"""One run of FMA's own aggregation of a model, its scheduled task and the hook after it; prints the aggregate's id.

`--dies-in METHOD` ends it when its metadata connector is asked for that, as a crash there would.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from types import SimpleNamespace
from typing import Any

import django

django.setup()

from fma_core.workflows.tasks import agg_service, post_agg_service_hook  # noqa: E402  # they need Django's setup
from fma_django_connectors import DjangoMetadataConnector  # noqa: E402


def die(*_: Any, **__: Any) -> None:
    """End at once."""
    os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_id", type=int)
    parser.add_argument("--dies-in", metavar="METHOD")
    given = parser.parse_args()
    if given.dies_in:
        assert hasattr(DjangoMetadataConnector, given.dies_in), given.dies_in
        setattr(DjangoMetadataConnector, given.dies_in, die)
    posted = agg_service(given.model_id)
    post_agg_service_hook(SimpleNamespace(args=[given.model_id], success=True))
    json.dump(posted, sys.stdout)
