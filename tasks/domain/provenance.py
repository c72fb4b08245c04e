"""Provenance: proof of what went into an aggregate, by making it again; and the chain back to where it began."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from connectors.errors import BlobMissing, ModelDataError
from connectors.records import BlobRef, DataFormat, ModelAggregate, TensorSpec
from tasks.aggregation import AggregationError
from tasks.domain.combining import IngredientUnusable, follow
from tasks.domain.recipes import Recipe, from_manifest
from tasks.hub import Hub


class Verdict(StrEnum):
    """What a verification came to."""

    IDENTICAL = "identical"  # the recipe gives the very bytes
    DIFFERENT = "different"  # it gives others: the aggregate, an input or the manifest was changed
    MISSING = "missing"  # the aggregate's own bytes are not in the store
    INPUTS_DROPPED = "inputs dropped"  # retention let inputs go: nothing can be said
    NOT_REPEATABLE = "not repeatable"  # noise whose seed was not kept, or not the hub's work: nothing can be said


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether an aggregate is what its manifest says, and what is the matter if not."""

    aggregate: ModelAggregate
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """One aggregate of a lineage, and who contributed."""

    aggregate: ModelAggregate
    contributors: tuple[tuple[str, float, float], ...]  # client, num_examples, weight as applied


def verify(hub: Hub, aggregate: ModelAggregate) -> Verification:
    """Make the aggregate again from its manifest, and compare bytes: its model's and its state's.

    Every input is read anew and held to its digest. Raises: StoreUnavailable.
    """
    if "taken_over_from" in aggregate.manifest:
        return Verification(aggregate, Verdict.NOT_REPEATABLE, "FMA made it before the hub came: nobody wrote down how")
    recipe = from_manifest(aggregate.manifest)
    if recipe.is_random:
        return Verification(
            aggregate, Verdict.NOT_REPEATABLE, "its noise was drawn from a seed that was not kept (keep_noise_seed)"
        )
    try:
        hub.model_data.take_in(aggregate.data.uri, aggregate.data.digest)
        tensors = _tensors_of(hub, aggregate.data, recipe.data_format)
    except BlobMissing:
        return Verification(aggregate, Verdict.MISSING, f"nothing is stored under {aggregate.data.digest}")
    except ModelDataError as error:
        return Verification(aggregate, Verdict.DIFFERENT, f"the stored aggregate: {error.reason}")
    for what, ref in _read_by(recipe):
        try:
            hub.model_data.take_in(ref.uri, ref.digest)
        except BlobMissing:
            return Verification(aggregate, Verdict.INPUTS_DROPPED, f"{what} is not in the store any more")
        except ModelDataError as error:
            return Verification(aggregate, Verdict.DIFFERENT, f"{what}: {error.reason}")
    try:
        cooked = follow(hub, recipe, tensors)
    except (IngredientUnusable, AggregationError, ModelDataError) as error:
        return Verification(aggregate, Verdict.DIFFERENT, f"it can't be made again: {error}")
    if cooked.data.digest != aggregate.data.digest:
        reason = f"made again it has digest {cooked.data.digest}, stored is {aggregate.data.digest}"
        return Verification(aggregate, Verdict.DIFFERENT, reason)
    stored_state = None if aggregate.state is None else aggregate.state.digest
    made_state = None if cooked.state is None else cooked.state.digest
    if stored_state != made_state:
        reason = f"made again its state has digest {made_state}, stored is {stored_state}"
        return Verification(aggregate, Verdict.DIFFERENT, reason)
    return Verification(aggregate, Verdict.IDENTICAL)


def lineage(hub: Hub, aggregate: ModelAggregate) -> list[Link]:
    """The chain from the aggregate back to the model's first, the newest first."""
    links = []
    found: ModelAggregate | None = aggregate
    while found is not None:
        contributors = tuple(
            (given["client_id"], given["num_examples"], given["weight"]) for given in found.manifest.get("inputs", ())
        )
        links.append(Link(found, contributors))
        found = None if found.parent_id is None else hub.metadata.pull_model_aggregate(found.parent_id)
    return links


def _read_by(recipe: Recipe) -> list[tuple[str, BlobRef]]:
    """Every blob that the recipe reads, and what it is, for people."""
    read = [(f"the input of {ingredient.label}", ingredient.data) for ingredient in recipe.ingredients]
    read += [(f"the base of {i.label}", i.base) for i in recipe.ingredients if i.base is not None]
    if recipe.current is not None:
        read.append(("the model it was made from", recipe.current))
    if recipe.state is not None:
        read.append(("the state of the round before", recipe.state))
    return read


def _tensors_of(hub: Hub, ref: BlobRef, data_format: DataFormat) -> tuple[TensorSpec, ...]:
    reader = hub.model_data.open(ref, data_format)
    try:
        return reader.tensors
    finally:
        reader.close()
