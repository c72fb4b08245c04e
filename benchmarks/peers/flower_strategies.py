"""Flower's strategies that build on a current model, some of them from round to round. Run in `.peers/flower`.

Each in both APIs: `NAME` is that of messages (flwr.serverapp), `server.strategy.NAME` the older one (flwr.server).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.common import Code, FitRes, Parameters, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.client.dpfedavg_numpy_client import DPFedAvgNumPyClient
from flwr.server import strategy as old
from flwr.serverapp import strategy as new
from safetensors.numpy import load_file, save_file

from benchmarks.peers.serving import Method, Request

WEIGHT = "num-examples"


def record(arrays: dict[str, Any]) -> ArrayRecord:
    """The arrays as Flower sends them."""
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


class _Nodes:
    """Of a grid, all that configuring a round looks at: two nodes are there. What they answer comes from files."""

    def get_node_ids(self) -> list[int]:
        return [1, 2]


class _Clients:
    """Of a client manager, the same."""

    def num_available(self) -> int:
        return 2

    def sample(self, **_: Any) -> list[None]:
        return [None]


def _by_messages(make: Callable[[Request], Any]) -> Method:
    def method(request: Request) -> None:
        strategy = make(request)
        arrays = record(load_file(request.current))
        combined: dict[str, Any] = {}
        clips = []
        for number, updates in enumerate(request.by_round(), 1):
            strategy.configure_train(number, arrays, ConfigRecord(), _Nodes())
            replies = []
            for index in updates:
                metrics: dict[str, float] = {WEIGHT: request.num_examples[index]}
                if request.losses:
                    metrics["train_loss"] = request.losses[index]
                trained = record(load_file(request.files[index]))
                content = RecordDict({"arrays": trained, "metrics": MetricRecord(metrics)})
                replies.append(Message(content, dst_node_id=1, message_type="train"))
            arrays, _metrics = strategy.aggregate_train(number, replies)
            if arrays is None:
                raise ValueError(f"nothing came of round {number}")
            combined |= {request.name_of(name, number): array.numpy() for name, array in arrays.items()}
            clips.append(getattr(strategy, "clipping_norm", None))
        save_file(combined, request.out)
        request.facts = {"next_clips": clips}

    return method


def _by_parameters(make: Callable[[Request, Parameters], Any], through_client: bool = False) -> Method:
    """`through_client`: each update goes through Flower's own client wrapper, which clips it."""

    def method(request: Request) -> None:
        current = load_file(request.current)
        names = list(current)
        parameters = ndarrays_to_parameters([current[name] for name in names])
        strategy = make(request, parameters)
        combined: dict[str, Any] = {}
        clips = []
        for number, updates in enumerate(request.by_round(), 1):
            [(_client, instruction)] = strategy.configure_fit(number, parameters, _Clients())
            results: list[Any] = []
            for index in updates:
                trained = load_file(request.files[index])
                client = _Trained([trained[name] for name in names], request.num_examples[index])
                fit = DPFedAvgNumPyClient(client).fit if through_client else client.fit
                arrays, count, metrics = fit(parameters_to_ndarrays(parameters), instruction.config)
                results.append((None, FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays), count, metrics)))
            parameters, _metrics = strategy.aggregate_fit(number, results, [])
            arrays = parameters_to_ndarrays(parameters)
            combined |= {request.name_of(name, number): array for name, array in zip(names, arrays, strict=True)}
            clips.append(getattr(strategy, "clipping_norm", getattr(strategy, "clip_norm", None)))
        save_file(combined, request.out)
        request.facts = {"next_clips": clips}

    return method


class _Trained(NumPyClient):
    """A client that has trained already."""

    def __init__(self, arrays: list[Any], num_examples: int) -> None:
        self._arrays, self._num_examples = arrays, num_examples

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:  # noqa: ARG002
        return self._arrays, self._num_examples, {}


def _old_qfedavg(request: Request, _parameters: Parameters) -> Any:
    """It knows no client's loss, only what the server's own evaluation says, here their mean."""
    loss = sum(request.losses) / len(request.losses)
    return old.QFedAvg(
        q_param=request.params["q"],
        qffl_learning_rate=1 / request.params["lipschitz"],
        evaluate_fn=lambda _round, _parameters, _config: (loss, {}),
    )


def _clipping(request: Request) -> dict[str, Any]:
    """With the noise that was asked for, else none."""
    clients = len(request.files) // request.rounds
    return {"noise_multiplier": request.params.get("noise_multiplier", 0.0), "num_sampled_clients": clients}


def _adaptive(request: Request) -> dict[str, Any]:
    return _clipping(request) | {
        "initial_clipping_norm": request.params["clip"],
        "target_clipped_quantile": request.params["target_quantile"],
        "clip_norm_lr": request.params["clip_learning_rate"],
    }


def _deprecated_adaptive(request: Request) -> dict[str, Any]:
    return _clipping(request) | {
        "init_clip_norm": request.params["clip"],
        "clip_norm_target_quantile": request.params["target_quantile"],
        "clip_norm_lr": request.params["clip_learning_rate"],
    }


def _optimizer(strategy: Any) -> Method:
    # Ours and theirs are called alike, so the parameters are handed on as they come.
    return _by_messages(lambda request: strategy(**request.params))


def _old_optimizer(strategy: Any) -> Method:
    return _by_parameters(lambda request, current: strategy(initial_parameters=current, **request.params))


STRATEGIES: dict[str, Method] = {
    "FedAvgM": _optimizer(new.FedAvgM),
    "server.strategy.FedAvgM": _old_optimizer(old.FedAvgM),
    "FedAdagrad": _optimizer(new.FedAdagrad),
    "server.strategy.FedAdagrad": _old_optimizer(old.FedAdagrad),
    "FedAdam": _optimizer(new.FedAdam),
    "server.strategy.FedAdam": _old_optimizer(old.FedAdam),
    "FedYogi": _optimizer(new.FedYogi),
    "server.strategy.FedYogi": _old_optimizer(old.FedYogi),
    "QFedAvg": _by_messages(
        lambda request: new.QFedAvg(client_learning_rate=1 / request.params["lipschitz"], q=request.params["q"])
    ),
    "server.strategy.QFedAvg": _by_parameters(_old_qfedavg),
    "MultiKrum": _by_messages(
        lambda request: new.MultiKrum(
            num_malicious_nodes=request.params["num_byzantine"], num_nodes_to_select=request.params["m"]
        )
    ),
    "server.strategy.Krum": _by_parameters(
        lambda request, _current: old.Krum(
            num_malicious_clients=request.params["num_byzantine"], num_clients_to_keep=request.params["m"]
        )
    ),
    "Bulyan": _by_messages(lambda request: new.Bulyan(num_malicious_nodes=request.params["num_byzantine"])),
    "server.strategy.Bulyan": _by_parameters(
        # `to_keep` is what its own default rule can't do without.
        lambda request, _current: old.Bulyan(num_malicious_clients=request.params["num_byzantine"], to_keep=0)
    ),
    "server.strategy.Bulyan(defaults)": _by_parameters(
        lambda request, _current: old.Bulyan(num_malicious_clients=request.params["num_byzantine"])
    ),
    "FixedClipping": _by_messages(
        lambda request: new.DifferentialPrivacyServerSideFixedClipping(
            new.FedAvg(), clipping_norm=request.params["clip"], **_clipping(request)
        )
    ),
    "server.strategy.FixedClipping": _by_parameters(
        lambda request, _current: old.DifferentialPrivacyServerSideFixedClipping(
            old.FedAvg(), clipping_norm=request.params["clip"], **_clipping(request)
        )
    ),
    "AdaptiveClipping": _by_messages(
        lambda request: new.DifferentialPrivacyServerSideAdaptiveClipping(new.FedAvg(), **_adaptive(request))
    ),
    "server.strategy.AdaptiveClipping": _by_parameters(
        lambda request, _current: old.DifferentialPrivacyServerSideAdaptiveClipping(old.FedAvg(), **_adaptive(request))
    ),
    "server.strategy.DPFedAvgAdaptive": _by_parameters(
        lambda request, _current: old.DPFedAvgAdaptive(old.FedAvg(), **_deprecated_adaptive(request)),
        through_client=True,
    ),
}
