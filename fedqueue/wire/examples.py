"""One message of each task, as a sender would write it: shown in the AsyncAPI document, tried by the tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fedqueue.messages import names

_MODEL: Final = "6b1f0a52-8c1d-4f6e-9a35-0d6c3c1e7a01"
_CLIENT: Final = "6b1f0a52-8c1d-4f6e-9a35-0d6c3c1e7a02"
_TRUST: Final = "6b1f0a52-8c1d-4f6e-9a35-0d6c3c1e7a05"
_RUN: Final = "6b1f0a52-8c1d-4f6e-9a35-0d6c3c1e7a06"

EXAMPLES: Final[Mapping[str, Mapping[str, Any]]] = {
    names.MODELS_CREATE: {
        "model_id": _MODEL,
        "name": "lungs",
        "data_format": "json",
        "initial_data": [0, 0, 0],
        "aggregator": "fedavg",
        "requirement": "require_x_clients",
        "requirement_args": {"x": 2},
        "user_id": "ada",
    },
    names.MODELS_EDIT: {"model_id": _MODEL, "changes": {"max_rounds": 50}, "user_id": "ada"},
    names.MODELS_PAUSE: {"model_id": _MODEL, "user_id": "ada"},
    names.MODELS_RESUME: {"model_id": _MODEL, "user_id": "ada"},
    names.MODELS_REGISTER_CLIENT: {"model_id": _MODEL, "client_id": _CLIENT, "name": "north"},
    names.MODELS_GET: {"model_id": _MODEL},
    names.MODELS_LATEST: {"model_id": _MODEL, "include_data": True},
    names.MODELS_UPLOAD_URL: {"size_bytes": 4_000_000},
    names.MODELS_PROGRESS: {"model_id": _MODEL},
    names.MODELS_PUBLISH: {"model_id": _MODEL, "version": "1.0", "aggregate_id": 7, "user_id": "ada"},
    names.MODELS_DELETE: {"model_id": _MODEL, "user_id": "ada"},
    names.MODELS_DELETE_FOR_PROJECT: {"project_id": "chest", "user_id": "ada"},
    names.MODELS_UPDATE_STATUS: {"model_id": _MODEL, "status": "STOPPED", "user_id": "ada"},
    names.MODELS_UPDATE_STATUSES: {
        "statuses": [
            {"model_id": _MODEL, "status": "INITIATED", "run_id": _RUN},
            {"model_id": _MODEL, "status": "RUNNING", "run_id": _RUN},
        ]
    },
    names.UPDATES_SUBMIT: {
        "submission_id": "6b1f0a52-8c1d-4f6e-9a35-0d6c3c1e7a03",
        "model_id": _MODEL,
        "client_id": _CLIENT,
        "num_examples": 10,
        "data": [1, 2, 4],
        "metrics": {"accuracy": 0.75},
    },
    names.SCORES_ADD: {
        "model_id": _MODEL,
        "aggregate_id": 7,
        "client_id": _CLIENT,
        "num_examples": 200,
        "validation_results": {"accuracy": 0.875},
    },
    names.TRUSTS_ADD: {"trust_id": _TRUST, "name": "King's College Hospital", "code": "KCH"},
    names.TRUSTS_LIST: {"model_id": _MODEL},
    names.TRUSTS_SET_SLOT: {"fl_client_name": "site-1", "trust_id": _TRUST},
    names.TRUSTS_SET_MODEL: {"model_id": _MODEL, "trust_ids": [_TRUST], "user_id": "ada"},
    names.TRUSTS_SET_CLIENT: {"client_id": _CLIENT, "trust_id": _TRUST},
    names.EVENTS_INGEST: {
        "events": [
            {
                "event_id": "6b1f0a52-8c1d-4f6e-9a35-0d6c3c1e7a04",
                "model_id": _MODEL,
                "event_type": "ROUND_STARTED",
                "global_round": 1,
                "details": {"total_rounds": 50},
            },
            {
                "event_id": "6b1f0a52-8c1d-4f6e-9a35-0d6c3c1e7a07",
                "model_id": _MODEL,
                "metric": {"label": "loss", "result": 0.25},
                "global_round": 1,
                "fl_client_name": "site-1",
            },
        ]
    },
    names.LOGS_ADD: {
        "entries": [
            {
                "event_id": "6b1f0a52-8c1d-4f6e-9a35-0d6c3c1e7a08",
                "model_id": _MODEL,
                "log": "the scanner was away",
                "success": False,
                "fl_client_name": "site-1",
            }
        ]
    },
    names.METRICS_ADD: {
        "points": [
            {
                "event_id": "6b1f0a52-8c1d-4f6e-9a35-0d6c3c1e7a09",
                "model_id": _MODEL,
                "label": "accuracy",
                "result": 0.75,
                "global_round": 1,
            }
        ]
    },
    names.LOGS_LIST: {"model_id": _MODEL, "after_id": 0, "limit": 100},
    names.METRICS_GET: {"model_id": _MODEL},
}
