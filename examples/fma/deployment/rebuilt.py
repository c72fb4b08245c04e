"""Have django-mptt rebuild FMA's tree of aggregates from the parents alone; print as JSON what that changed."""

from __future__ import annotations

import json
import sys
from typing import Any

import django

django.setup()

from fma_django.models import ModelAggregate  # noqa: E402  # Django's models come after its setup


def places() -> dict[int, Any]:
    """Each aggregate's place in the tree."""
    rows = ModelAggregate.objects.order_by("pk").values("pk", "tree_id", "lft", "rght", "level", "parent_id")
    return {row["pk"]: row for row in rows}


if __name__ == "__main__":
    before = places()
    ModelAggregate.objects.rebuild()
    after = places()
    changed = [[before[key], after[key]] for key in before if before[key] != after[key]]
    deepest = max((row["level"] for row in before.values()), default=-1)
    json.dump({"aggregates": len(before), "changed": changed, "deepest": deepest}, sys.stdout)
