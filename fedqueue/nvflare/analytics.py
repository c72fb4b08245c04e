"""Metrics that sites write with FLARE's writers become points of the hub's plots."""

from __future__ import annotations

from typing import Final

from nvflare.apis.analytix import AnalyticsData, AnalyticsDataType
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.widgets.streaming import AnalyticsReceiver

from fedqueue.arguments import as_uuid
from fedqueue.bridges.telling import Telling
from fedqueue.client import Client
from fedqueue.nvflare.aggregator import MADE_BY
from fedqueue.nvflare.sites import numbers_of

_ONE: Final = (AnalyticsDataType.SCALAR, AnalyticsDataType.METRIC)
_SEVERAL: Final = (AnalyticsDataType.SCALARS, AnalyticsDataType.METRICS)


class HubAnalyticsReceiver(AnalyticsReceiver):
    """Takes scalars (TensorBoard's and MLflow's words for them); text, images, tags and the like are not for plots.

    A point's place is the writer's `global_step`, on an axis "Steps", else the round. A site whose institution has a
    slot (`slots`: site → the name under which the hub knows it) is told apart by it; the others by the plot's label:
    "loss (site-1)".
    """

    def __init__(self, model_id: str, slots: dict[str, str] | None = None, events: list[str] | None = None) -> None:
        """Connects to nothing yet. Raises: InvalidArgument."""
        super().__init__(events=events)
        self.model_id = str(as_uuid(model_id, "model_id"))
        self.slots = slots
        self._telling: Telling | None = None

    def initialize(self, fl_ctx: FLContext) -> None:
        """Find the hub."""
        slots = self.slots or {}
        self._telling = Telling(Client(), as_uuid(self.model_id, "model_id"), MADE_BY, slots.get)

    def save(self, fl_ctx: FLContext, shareable: Shareable, record_origin: str) -> None:
        """Take the points; they are sent in batches, from a thread of their own."""
        assert self._telling is not None, "FLARE initializes a receiver before it gives it data"
        data = AnalyticsData.from_dxo(from_shareable(shareable))
        if data is None:
            return
        if data.data_type in _ONE:
            values = {data.tag: data.value}
        elif data.data_type in _SEVERAL:
            values = {f"{data.tag} {name}": value for name, value in data.value.items()}
        else:
            return
        x, x_label = (fl_ctx.get_prop(AppConstants.CURRENT_ROUND, 0), "") if data.step is None else (data.step, "Steps")
        has_slot = record_origin in (self.slots or {})
        for tag, value in numbers_of(values).items():
            label = tag if has_slot else f"{tag} ({record_origin})"
            self._telling.point(label, int(x), value, record_origin, x_label)

    def finalize(self, fl_ctx: FLContext) -> None:
        """Return once the broker has the rest. Raises: EventsNotSent, which FLARE logs."""
        assert self._telling is not None, "FLARE initializes a receiver before it ends it"
        self._telling.send_all()
