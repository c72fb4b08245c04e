"""NVIDIA FLARE's weighted aggregation, one update after another as they arrive. Runs in `.peers/nvflare`."""

from __future__ import annotations

from nvflare.app_common.aggregators.weighted_aggregation_helper import WeightedAggregationHelper
from safetensors.numpy import load_file, save_file

from benchmarks.peers.serving import Request, serve


def _weighted(request: Request) -> None:
    helper = WeightedAggregationHelper()
    for index, (file, count) in enumerate(zip(request.files, request.num_examples, strict=True)):
        with request.phase("read"):
            arrays = load_file(file)
        with request.phase("combine"):
            helper.add(arrays, count, f"site-{index + 1}", 0)
    with request.phase("combine"):
        combined = helper.get_result()
    with request.phase("write"):
        save_file(combined, request.out)


if __name__ == "__main__":
    serve({"WeightedAggregationHelper": _weighted})
