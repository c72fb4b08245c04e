"""FLARE's events become the hub's: the run's status, rounds, results and failures."""

from __future__ import annotations

from typing import Any, cast
from uuid import uuid4

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.widgets.widget import Widget

from fedqueue.arguments import PolicyFields, as_uuid
from fedqueue.bridges.rounds import ServerRounds
from fedqueue.bridges.telling import Telling
from fedqueue.client import Client
from fedqueue.errors import FedqueueError
from fedqueue.nvflare.aggregator import MADE_BY


class HubReporter(Widget):
    """Tells the hub of the job, on the server: what fails, which sites are lost, how the run ended.

    `observe_only`: FLARE aggregates itself, so its rounds and results are told, too; the model is made (with `policy`)
    if it is not there, and each job is a run of its own. Else they are the hub's own to tell.
    A hub that can't be reached does not fail the job: it is logged, and told when it is back.
    """

    def __init__(
        self,
        model_id: str,
        observe_only: bool = False,
        slots: dict[str, str] | None = None,
        policy: dict[str, Any] | None = None,
    ) -> None:
        """Connects to nothing yet. Raises: InvalidArgument."""
        super().__init__()
        self.model_id = str(as_uuid(model_id, "model_id"))
        self.observe_only = observe_only
        self.slots = slots
        self.policy = policy
        self._telling: Telling | None = None
        self._returned = 0
        self._failure = ""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """FLARE's way to tell."""
        heard = {
            EventType.START_RUN: self._begun,
            EventType.BEFORE_PROCESS_SUBMISSION: self._result_came,
            EventType.CLIENT_DISCONNECTED: self._site_lost,
            EventType.FATAL_SYSTEM_ERROR: self._failed,
            EventType.END_RUN: self._ended,
        }
        if self.observe_only:
            heard |= {
                AppEventType.TRAINING_STARTED: self._training_started,
                AppEventType.ROUND_STARTED: self._round_started,
                AppEventType.AFTER_CONTRIBUTION_ACCEPT: self._result_judged,
                AppEventType.AFTER_AGGREGATION: self._aggregated,
            }
        hear = heard.get(event_type)
        if hear is None:
            return
        try:
            if self._telling is None and event_type == AppEventType.ROUND_STARTED:
                # The hub was away when the job began.
                self._begun(fl_ctx)
                self._training_started(fl_ctx)
            if self._telling is not None or event_type == EventType.START_RUN:
                hear(fl_ctx)
        except FedqueueError as error:
            self.log_error(fl_ctx, f"the hub was not told of {event_type}: {error}", fire_event=False)

    def _begun(self, fl_ctx: FLContext) -> None:
        model_id, hub = as_uuid(self.model_id, "model_id"), Client()
        # What FLARE aggregates begins anew with every job; what the hub aggregates goes on.
        run_id = uuid4() if self.observe_only else None
        telling = Telling(hub, model_id, MADE_BY, (self.slots or {}).get, run_id)
        if self.observe_only:
            ServerRounds(hub, model_id, MADE_BY, cast(PolicyFields, self.policy or {})).watch()
            telling.status("INITIATED")
        self._telling, self._failure = telling, ""

    def _training_started(self, _: FLContext) -> None:
        self._told.status("RUNNING")

    def _round_started(self, fl_ctx: FLContext) -> None:
        self._returned = 0
        total = fl_ctx.get_prop(AppConstants.NUM_ROUNDS)
        self._told.event("ROUND_STARTED", _round(fl_ctx), **({} if total is None else {"total_rounds": total}))

    def _result_came(self, fl_ctx: FLContext) -> None:
        result = fl_ctx.get_prop(FLContextKey.TASK_RESULT)
        code = result.get_return_code() if isinstance(result, Shareable) else ReturnCode.OK
        if code != ReturnCode.OK:
            self._told.failure(_round(fl_ctx), _site(fl_ctx), f"the site's task {_task(fl_ctx)} failed: {code}")

    def _result_judged(self, fl_ctx: FLContext) -> None:
        if fl_ctx.get_prop(AppConstants.AGGREGATION_ACCEPTED):
            self._returned += 1
            self._told.event("CLIENT_RESULT_RECEIVED", _round(fl_ctx), _site(fl_ctx))
        else:
            self._told.failure(_round(fl_ctx), _site(fl_ctx), "FLARE did not take the site's result")

    def _aggregated(self, fl_ctx: FLContext) -> None:
        self._told.event("ROUND_AGGREGATED", _round(fl_ctx), returned=self._returned)

    def _site_lost(self, fl_ctx: FLContext) -> None:
        site = str(fl_ctx.get_prop(FLContextKey.DISCONNECTED_CLIENT_NAME, "a site"))
        self._told.failure(_round(fl_ctx), site, "the site is no longer connected")

    def _failed(self, fl_ctx: FLContext) -> None:
        self._failure = str(fl_ctx.get_prop(FLContextKey.EVENT_DATA, "no reason given"))
        self._told.failure(_round(fl_ctx), "server", f"the job failed: {self._failure}")

    def _ended(self, fl_ctx: FLContext) -> None:
        signal = fl_ctx.get_prop(ReservedKey.RUN_ABORT_SIGNAL)
        if self._failure:
            status = "ERROR"
        elif signal is not None and signal.triggered:
            status = "STOPPED"
        else:
            status = "RESULTS_UPLOADED"
        self._told.send_all()
        self._told.status(status)

    @property
    def _told(self) -> Telling:
        assert self._telling is not None
        return self._telling


def _round(fl_ctx: FLContext) -> int:
    """From 1, as everywhere in the hub; 0 before the first."""
    current = fl_ctx.get_prop(AppConstants.CURRENT_ROUND)
    return 0 if current is None else int(current) + 1


def _site(fl_ctx: FLContext) -> str:
    peer = fl_ctx.get_peer_context()
    return "a site" if peer is None else str(peer.get_identity_name())


def _task(fl_ctx: FLContext) -> str:
    return str(fl_ctx.get_prop(FLContextKey.TASK_NAME, ""))
