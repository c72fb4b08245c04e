"""Combining: a round's updates become a model in the store, with no transaction open (DESIGN 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import cache

from connectors.errors import BlobMissing, ModelDataError
from connectors.model_data import TensorReader
from connectors.records import BlobRef, DataFormat, ModelUpdate, ReasonCode, TensorSpec
from tasks.aggregation import (
    AggregatorParams,
    StartFrom,
    UpdateStream,
    UpdateUnusable,
    combine_streams,
    find_aggregator,
    state_tensors,
)
from tasks.domain.claiming import Begun
from tasks.domain.due import fewest_for
from tasks.domain.leases import LeaseKeeper
from tasks.domain.recipes import Cooked, Ingredient, Recipe
from tasks.hub import Hub


class Culprit(Exception):
    """One update that can't take part; the others can go on without it."""

    def __init__(self, update: ModelUpdate, reason_code: ReasonCode, reason: str) -> None:
        super().__init__(f"update {update.id}: {reason}")
        self.update = update
        self.reason_code = reason_code
        self.reason = reason


class RoundFailed(Exception):
    """The round could not be combined, and no single update is known to be at fault."""


class IngredientUnusable(Exception):
    """One of a recipe's updates can't be read, or can't be combined with the others."""

    def __init__(self, ingredient: Ingredient, error: ModelDataError | UpdateUnusable) -> None:
        super().__init__(f"{ingredient.label}: {error.reason}")
        self.ingredient = ingredient
        self.reason_code = ReasonCode(error.reason_code)
        self.reason = error.reason
        self.is_missing = isinstance(error, BlobMissing)


def combine_round(hub: Hub, begun: Begun) -> tuple[Recipe, Cooked]:
    """The round's model in the store, fsynced under its digest, and how it was made; nobody names it yet.

    Raises: Culprit, RoundFailed, ClaimLost, Unavailable, AggregationError, ModelDataError.
    """
    recipe = recipe_of(hub, begun)
    sizes = [u.data.size_bytes if u.data else 0 for u in begun.updates]
    tensors = begun.model.tensors
    assert tensors is not None, "an update was accepted, and it set what the model looks like"
    try:
        with LeaseKeeper(hub, begun.claim, sizes) as keeper:
            return recipe, follow(hub, recipe, tensors, keeper)
    except IngredientUnusable as error:
        update = next(u for u in begun.updates if u.id == error.ingredient.update_id)
        # It was there when it was submitted: a store that is not mounted must not condemn its updates at once.
        if error.is_missing and update.attempts < hub.settings.max_attempts:
            raise RoundFailed(str(error)) from error
        raise Culprit(update, error.reason_code, error.reason) from error


def recipe_of(hub: Hub, begun: Begun) -> Recipe:
    """What the round's outcome depends on, by ascending update id."""
    # Ascending id, not arrival order: float addition is not associative, and the same updates must give the same bytes.
    model, metadata = begun.model, hub.metadata
    aggregator, params = model.aggregator, model.aggregator_params
    if begun.is_probe and (len(begun.updates) < fewest_for(model) or find_aggregator(aggregator).references):
        # A few suspects by themselves, which the aggregator would refuse unread: a plain mean reads them, too.
        aggregator, params = "fedavg", {name: params[name] for name in AggregatorParams.model_fields if name in params}

    @cache  # many updates are trained from one model
    def data_of(aggregate_id: int | None) -> BlobRef | None:
        if aggregate_id is None:
            initial = metadata.pull_model_artifact(model, "initial")
            return None if initial is None else initial.data
        found = metadata.pull_model_aggregate(aggregate_id)
        return None if found is None else found.data

    current, state = (data_of(None), None) if begun.parent is None else (begun.parent.data, begun.parent.state)
    ingredients = []
    for update in sorted(begun.updates, key=lambda u: u.id):
        assert update.data is not None, "a row without data is INVALID, by the schema"
        of = update.base_aggregate_id
        is_current = begun.parent is None if of is None else update.base_number == begun.claim.head
        ingredients.append(
            Ingredient(
                update_id=update.id,
                data=update.data,
                num_examples=update.num_examples,
                submission_id=str(update.submission_id),
                client_id=str(update.client_uuid),
                base_aggregate=of,
                base=None if is_current else data_of(of),
                staleness=begun.claim.head - (update.base_number or 0),
                num_steps=update.num_steps,
                loss=update.loss,
                reference=begun.references.get(update.id),
            )
        )
    return Recipe(
        number=begun.claim.head + 1,
        aggregator=aggregator,
        params=params,
        data_format=model.data_format,
        ingredients=tuple(ingredients),
        parent_id=None if begun.parent is None else begun.parent.id,
        current=current,
        state=state,
    )


def follow(hub: Hub, recipe: Recipe, tensors: Sequence[TensorSpec], keeper: LeaseKeeper | None = None) -> Cooked:
    """The recipe's model, and what its aggregator keeps for the next round, in the store.

    Raises: IngredientUnusable, ClaimLost, Unavailable, AggregationError, ModelDataError.
    """
    algorithm = find_aggregator(recipe.aggregator)
    storing = nullcontext if keeper is None else keeper.storing
    with ExitStack() as stack:

        def read(ref: BlobRef, data_format: DataFormat = recipe.data_format) -> TensorReader:
            with storing():
                reader = hub.model_data.open(ref, data_format)
            stack.callback(reader.close)
            if keeper is not None:
                keeper.keep()
            return reader

        def read_ingredient(ingredient: Ingredient) -> TensorReader:
            try:
                return read(ingredient.data)
            except ModelDataError as error:
                raise IngredientUnusable(ingredient, error) from error

        needs_models = algorithm.deltas or bool(algorithm.state)
        sources = [
            UpdateStream(
                read_ingredient(ingredient),
                num_examples=ingredient.num_examples,
                label=ingredient.label,
                base=read(ingredient.base) if ingredient.base is not None and needs_models else None,
                staleness=ingredient.staleness,
                num_steps=ingredient.num_steps,
                loss=ingredient.loss,
            )
            for ingredient in recipe.updates
        ]
        references = {i.reference: read_ingredient(i) for i in recipe.ingredients if i.reference is not None}
        kept = state_tensors(recipe.aggregator, recipe.params, tensors)
        writer = stack.enter_context(hub.model_data.writer(tensors, recipe.data_format))
        state_writer = stack.enter_context(hub.model_data.writer(kept, DataFormat.SAFETENSORS)) if kept else None
        try:
            report = combine_streams(
                recipe.aggregator,
                recipe.params,
                sources,
                writer,
                current=read(recipe.current) if recipe.current is not None and needs_models else None,
                state=read(recipe.state, DataFormat.SAFETENSORS) if recipe.state is not None and kept else None,
                state_sink=state_writer,
                references=references,
                expected=tensors,
                without_model=StartFrom.MEAN,
                noise_seed=recipe.noise_seed,
                budget_bytes=hub.settings.memory_budget_bytes,
                on_progress=None if keeper is None else keeper.note_bytes,
            )
        except UpdateUnusable as error:
            raise IngredientUnusable(recipe.updates[error.index], error) from error
        # No state is written where a first round without any model was the mean: there is nothing to remember.
        with storing():
            state = state_writer.commit() if state_writer is not None and report.state else None
            data = writer.commit()
        return Cooked(data, state, replace(report, params=dict(recipe.params)))
