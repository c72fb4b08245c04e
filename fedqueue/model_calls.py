"""Getting a model: where its newest aggregate lies, its values, the next one; and where to put data."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pydantic import JsonValue

from fedqueue.arguments import Id, as_message, as_seconds
from fedqueue.asking import Rests
from fedqueue.calls import Calls
from fedqueue.errors import RoundNotPosted, Unanswered
from fedqueue.messages import LatestModel, LatestView, SignUpload, UploadView
from fedqueue.messages import names as wire
from fedqueue.payload import Store, lists_of
from fedqueue.tensors import Array, read_tensors

# No round can follow while a model stands so: waiting for one would only use up the time.
_NO_MORE_ROUNDS = frozenset({"STOPPED", "ERROR", "RESULTS_UPLOADED", "RESULTS_UPLOAD_FAILED"})


@dataclass(frozen=True)
class FetchedModel:
    """The newest model with its values: `arrays` of a safetensors model, `data` (lists) of a JSON model."""

    latest: LatestView
    arrays: dict[str, Array] = field(default_factory=dict, repr=False)
    data: JsonValue = field(default=None, repr=False)

    @property
    def number(self) -> int:
        """Of the aggregate; 0 for the initial model."""
        return self.latest.number

    @property
    def aggregate_id(self) -> int | None:
        """What an update trained from this names as its `base_aggregate`."""
        return self.latest.aggregate_id


class ModelCalls(Calls):
    """The part of a client that fetches models."""

    _store: Store

    def latest(
        self,
        model_id: Id,
        *,
        include_data: bool = False,
        include_download_url: bool = False,
        timeout: float | None = None,
    ) -> LatestView:
        """Where the newest model lies; number 0 is the initial one, and no `uri` means that there is none yet.

        `include_download_url`: and a URL to read it by for an hour without credentials, if the store is a bucket.
        """
        asked = {"include_data": include_data, "include_download_url": include_download_url}
        return self._ask_of(wire.MODELS_LATEST, LatestView, model_id, timeout, LatestModel, **asked)

    def upload_url(self, size_bytes: int | None = None, *, timeout: float | None = None) -> UploadView:
        """A URL that takes a PUT of model data for an hour, and the `uri` to name it by in an update or a model.

        For programs without credentials for the store, which must be a bucket; with `store_url="signed"` a client
        does all of it by itself.
        """
        message = as_message(SignUpload, size_bytes=size_bytes)
        return self._ask(wire.MODELS_UPLOAD_URL, message, UploadView, {}, timeout)

    def fetch_latest(self, model_id: Id, *, timeout: float | None = None) -> FetchedModel:
        """The newest model with its values, checked against its digest; no values while there is no model yet.

        Raises: StoreUnreachable, DataCorrupt.
        """
        wants_url = self._store.wants_url
        latest = self.latest(model_id, include_data=True, include_download_url=wants_url, timeout=timeout)
        return self._read(latest)

    def fetch(self, latest: LatestView, *, timeout: float | None = None) -> FetchedModel:
        """The values of what `latest` or `wait_for_aggregate` answered.

        Where the hub has to be asked for them (JSON that it sends along, URLs that it signs), those of the newest.
        Raises: StoreUnreachable, DataCorrupt.
        """
        is_sent_along = latest.data_format == "json" and latest.data is None
        if is_sent_along or (self._store.wants_url and latest.download_url is None):
            return self.fetch_latest(latest.model_id, timeout=timeout)
        return self._read(latest)

    def _read(self, latest: LatestView) -> FetchedModel:
        if latest.data is not None:
            return FetchedModel(latest, data=latest.data)
        if latest.uri is None or latest.digest is None:
            return FetchedModel(latest)
        buffer = self._store.read(latest.download_url or latest.uri, latest.digest)
        if latest.data_format == "json":
            return FetchedModel(latest, data=lists_of(buffer))
        return FetchedModel(latest, arrays=read_tensors(buffer))

    def wait_for_aggregate(self, model_id: Id, *, after: int, timeout: float = 600.0) -> LatestView:
        """The newest aggregate once its number is above `after`. A hub that is away meanwhile is waited for.

        Raises: RoundNotPosted after `timeout` seconds, and at once when the model's run is over.
        """
        deadline = time.monotonic() + as_seconds(timeout, "timeout")
        pauses = Rests(shortest=0.01, longest=1.0, factor=1.3)
        seen: int | None = None
        trouble: Unanswered | None = None
        while (left := deadline - time.monotonic()) > 0:
            try:
                latest = self.latest(model_id, timeout=min(left, self.timeout))
            except Unanswered as error:
                trouble = error
                continue
            seen, trouble = latest.number, None
            if latest.number > after:
                return latest
            if latest.status in _NO_MORE_ROUNDS:
                raise RoundNotPosted(
                    f"model {model_id} is {latest.status} at aggregate {seen}: no other will follow", seen
                )
            time.sleep(max(0.0, min(pauses.next(), deadline - time.monotonic())))
        standing = f"its newest aggregate is {seen}" if trouble is None else f"last: {trouble}"
        raise RoundNotPosted(
            f"model {model_id} posted no aggregate above {after} within {timeout:g} s: {standing}", seen
        ) from trouble
