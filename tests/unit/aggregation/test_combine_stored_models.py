"""Engine and store together: from files to a file, as a round does it."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connectors.model_data import TensorReader, TensorWriter
from connectors.records import BlobRef, DataFormat, FederatedModel
from connectors.storage import FileModelDataConnector
from fedqueue.blobs import path_of
from tasks.aggregation import (
    TensorSink,
    TensorSource,
    UpdateArrays,
    UpdateStream,
    UpdateUnusable,
    combine,
    combine_streams,
)

MODEL = FederatedModel(id=1, uuid=None)  # type: ignore[arg-type]  # only its place in the signature is used


def _combine(store: FileModelDataConnector, refs: list[BlobRef], data_format: DataFormat, **options: Any) -> BlobRef:
    with ExitStack() as stack:
        readers = [stack.enter_context(closing(store.open(ref, data_format))) for ref in refs]
        streams = [UpdateStream(reader, num_examples=index + 1.0) for index, reader in enumerate(readers)]
        writer = stack.enter_context(store.writer(readers[0].tensors, data_format))
        combine_streams("fedavg", {}, streams, writer, **options)
        return writer.commit()


def test_readers_and_writers_of_the_store_are_what_the_engine_takes(tmp_path: Path) -> None:
    """Held together by the type checker: the engine must not import the connectors to say so."""

    def source(reader: TensorReader) -> TensorSource:
        return reader

    def sink(writer: TensorWriter) -> TensorSink:
        return writer

    store = FileModelDataConnector(tmp_path)
    with store.writer([("w", (0,), "F64")], DataFormat.SAFETENSORS) as writer:
        sink(writer)
        ref = writer.commit()
    assert source(store.open(ref, DataFormat.SAFETENSORS)).tensors == (("w", (0,), "F64"),)


@pytest.mark.parametrize("budget_bytes", [64, 1 << 28])
def test_files_combine_to_the_bytes_that_arrays_combine_to(tmp_path: Path, budget_bytes: int) -> None:
    store = FileModelDataConnector(tmp_path)
    rng = np.random.default_rng(3)
    updates = [
        {"w": rng.normal(size=(40, 5)).astype(np.float32), "n": np.array(i), "e": np.zeros((0, 2), np.float16)}
        for i in range(5)
    ]
    refs = [
        store.push_model_data_to_storage(MODEL, store.prep_model_data_for_storage(arrays, DataFormat.SAFETENSORS))
        for arrays in updates
    ]
    combined = _combine(store, refs, DataFormat.SAFETENSORS, budget_bytes=budget_bytes)
    in_memory = combine("fedavg", {}, [UpdateArrays(arrays, i + 1.0) for i, arrays in enumerate(updates)])
    data = store.prep_model_data_for_storage(in_memory.arrays, DataFormat.SAFETENSORS)
    assert combined.digest == store.push_model_data_to_storage(MODEL, data).digest


@pytest.mark.parametrize(
    ("first", "second", "mean"),
    [
        ([1, 2, 4], [4, 2, 1], [3.0, 2.0, 2.0]),
        ([[1, 2, 4]], [[4, 2, 1]], [[3.0, 2.0, 2.0]]),
        ([[1, 2], [[3], [3]], 0], [[4, 2], [[3], [6]], 3], [[3.0, 2.0], [[3.0], [5.0]], 2.0]),
    ],
    ids=str,
)
def test_json_combines_to_json_of_the_same_form(tmp_path: Path, first: Any, second: Any, mean: Any) -> None:
    store = FileModelDataConnector(tmp_path)
    refs = [store.push_model_data_to_storage(MODEL, json.dumps(data).encode()) for data in (first, second)]
    assert json.loads(path_of(_combine(store, refs, DataFormat.JSON).uri).read_text()) == mean


def test_a_round_that_fails_half_way_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    store = FileModelDataConnector(tmp_path)
    late_nan = np.ones(1000)
    late_nan[-1] = np.nan
    refs = [
        store.push_model_data_to_storage(MODEL, store.prep_model_data_for_storage({"w": w}, DataFormat.SAFETENSORS))
        for w in (np.ones(1000), late_nan, np.full(1000, 4.0))
    ]
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UpdateUnusable, match=r"w\[999\] is nan") as caught:
        _combine(store, refs, DataFormat.SAFETENSORS, budget_bytes=1024)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    del refs[caught.value.index]
    combined = store.open(_combine(store, refs, DataFormat.SAFETENSORS), DataFormat.SAFETENSORS)
    assert set(combined.read("w", 0, 1000).tolist()) == {3.0}  # (1 × 1 + 2 × 4) / 3
