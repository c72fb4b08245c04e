"""Recipes: everything that an aggregate's bytes depend on. A round writes one down, `verify` follows it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from connectors.records import BlobRef, DataFormat
from fedqueue.version import __version__
from tasks.aggregation import Report

MANIFEST_VERSION = 1


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One update as the engine takes it in."""

    update_id: int
    data: BlobRef
    num_examples: float
    submission_id: str = ""
    client_id: str = ""
    base_aggregate: int | None = None
    base: BlobRef | None = None  # the model it was trained from; None: the current one
    staleness: int = 0
    num_steps: int | None = None
    loss: float | None = None
    reference: str | None = None  # the parameter whose model it is, for what is taken beside the updates

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"update {self.update_id}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to combine, and how, in this order."""

    number: int
    aggregator: str
    params: Mapping[str, Any]
    data_format: DataFormat
    ingredients: tuple[Ingredient, ...]
    parent_id: int | None = None
    current: BlobRef | None = None  # the parent's model, else the initial one
    state: BlobRef | None = None  # what the parent's round left
    noise_seed: bytes | None = None  # None: a new one, if the aggregator draws noise

    @property
    def is_random(self) -> bool:
        """Whether it draws noise from a seed that was not kept."""
        return self.params.get("keep_noise_seed") is False and self.noise_seed is None

    @property
    def updates(self) -> tuple[Ingredient, ...]:
        """The ingredients that are combined, in order: all but the references."""
        return tuple(i for i in self.ingredients if i.reference is None)


@dataclass(frozen=True, slots=True)
class Cooked:
    """What came of a recipe: blobs that nobody names yet."""

    data: BlobRef
    state: BlobRef | None
    report: Report = field(repr=False)


def to_manifest(recipe: Recipe, cooked: Cooked) -> dict[str, Any]:
    """The recipe and its outcome as JSON."""
    weights = dict(zip((i.update_id for i in recipe.updates), cooked.report.weights, strict=True))
    return {
        "v": MANIFEST_VERSION,
        "number": recipe.number,
        "parent": recipe.parent_id,
        "aggregator": recipe.aggregator,
        "params": dict(recipe.params),
        "data_format": str(recipe.data_format),
        "current": _from_ref(recipe.current),
        "state": _from_ref(recipe.state),
        "inputs": [
            {
                "update_id": i.update_id,
                "submission_id": i.submission_id,
                "client_id": i.client_id,
                "digest": i.data.digest,
                "uri": i.data.uri,
                "num_examples": i.num_examples,
                "num_steps": i.num_steps,
                "loss": i.loss,
                "base_aggregate": i.base_aggregate,
                "base": _from_ref(i.base),
                "staleness": i.staleness,
                "reference": i.reference,
                "weight": weights.get(i.update_id, 0.0),
            }
            for i in recipe.ingredients
        ],
        "facts": dict(cooked.report.facts),
        "digest": cooked.data.digest,
        "state_digest": None if cooked.state is None else cooked.state.digest,
        "versions": {"fedqueue": __version__, "numpy": version("numpy")},
    }


def from_manifest(manifest: Mapping[str, Any]) -> Recipe:
    """The recipe that a manifest holds. Raises: ValueError for a manifest of another version."""
    if manifest.get("v") != MANIFEST_VERSION:
        raise ValueError(f"a manifest of version {manifest.get('v')}; this program reads {MANIFEST_VERSION}")
    return Recipe(
        number=manifest["number"],
        aggregator=manifest["aggregator"],
        params=manifest["params"],
        data_format=DataFormat(manifest["data_format"]),
        parent_id=manifest["parent"],
        current=_to_ref(manifest["current"]),
        state=_to_ref(manifest["state"]),
        noise_seed=bytes.fromhex(manifest["facts"]["noise_seed"]) if "noise_seed" in manifest["facts"] else None,
        ingredients=tuple(
            Ingredient(
                update_id=given["update_id"],
                data=BlobRef(given["uri"], given["digest"], 0),
                num_examples=given["num_examples"],
                submission_id=given["submission_id"],
                client_id=given["client_id"],
                base_aggregate=given["base_aggregate"],
                base=_to_ref(given["base"]),
                staleness=given["staleness"],
                num_steps=given["num_steps"],
                loss=given["loss"],
                reference=given["reference"],
            )
            for given in manifest["inputs"]
        ),
    )


def _from_ref(ref: BlobRef | None) -> dict[str, Any] | None:
    return None if ref is None else {"uri": ref.uri, "digest": ref.digest, "size_bytes": ref.size_bytes}


def _to_ref(given: Mapping[str, Any] | None) -> BlobRef | None:
    return None if given is None else BlobRef(given["uri"], given["digest"], given["size_bytes"])
