"""One hub a process: what a parent has open is never used by its child."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from config.loading import load_settings
from connectors.django.connector import DjangoMetadataConnector
from connectors.errors import ModelDataError
from connectors.memory import InMemoryMetadataConnector
from connectors.records import DataFormat, FederatedModel
from connectors.sql.connector import SqlAlchemyMetadataConnector
from connectors.storage.file_connector import FileModelDataConnector
from connectors.storage.limits import Limits
from fedqueue.messages import names
from worker.bootstrap import HubCelery, build_model_data


@pytest.fixture
def app(home: Path) -> HubCelery:
    return HubCelery(load_settings(env_file=None, home=home, broker_url="memory://"))


def test_the_settings_name_the_connectors(app: HubCelery, home: Path) -> None:
    hub = app.hub
    assert isinstance(hub.metadata, SqlAlchemyMetadataConnector)
    assert str(hub.metadata.engine.url) == f"sqlite:///{home}/fedqueue.db"
    assert isinstance(hub.model_data, FileModelDataConnector)
    hub.metadata.update_database()
    hub.metadata.check()
    hub.model_data.check()
    app.close_hub()


def test_beside_fma_the_hub_works_in_its_database_and_reads_its_files(home: Path) -> None:
    media = home / "media"
    settings = load_settings(
        env_file=None, home=home, broker_url="memory://", metadata_connector="django", fma_media=media
    )
    app = HubCelery(settings)
    assert isinstance(app.hub.metadata, DjangoMetadataConnector)
    (media / "model_updates").mkdir(parents=True)
    (media / "model_updates" / "one").write_text("[1.0]")
    store = build_model_data(settings, InMemoryMetadataConnector())
    assert store.take_in((media / "model_updates" / "one").as_uri(), None).size_bytes == 5
    assert app.hub.metadata.deployment is app.hub.metadata
    app.close_hub()


def test_every_limit_of_model_data_is_a_setting(home: Path) -> None:
    """Each differs from its default and from the others, so that none can stand in another's place."""
    settings = load_settings(
        None, home=home, max_update_bytes=200_001, max_tensors=2, max_header_bytes=3003, max_json_bytes=4004,
        max_unpacked_ratio=5, ratio_free_bytes=60_006,
    )  # fmt: skip
    store = build_model_data(settings, InMemoryMetadataConnector())
    assert isinstance(store, FileModelDataConnector)
    assert store._limits == Limits(
        max_bytes=200_001,
        max_tensors=2,
        max_header_bytes=3003,
        max_json_bytes=4004,
        max_unpacked_ratio=5,
        ratio_free_bytes=60_006,
    )
    assert all(getattr(store._limits, name) != getattr(Limits(), name) for name in Limits.__slots__)


@pytest.mark.parametrize(
    "settings", [{}, {"max_unpacked_ratio": 2000}, {"ratio_free_bytes": "64MiB"}], ids=["refused", "ratio", "free"]
)
def test_an_archive_may_be_packed_as_tightly_as_the_settings_say(home: Path, settings: dict[str, Any]) -> None:
    """24 MiB of zeros pack about a thousand to one."""
    store = build_model_data(load_settings(None, home=home, **settings), InMemoryMetadataConnector())
    file = io.BytesIO()
    np.savez_compressed(file, w=np.zeros(3 << 20))
    sent = store.push_model_data_to_storage(FederatedModel(id=1, uuid=uuid4()), file.getvalue())
    if settings:
        assert store.normalise(sent, DataFormat.SAFETENSORS).size_bytes > 24 << 20
    else:
        with pytest.raises(ModelDataError, match="more than 100 times as many"):
            store.normalise(sent, DataFormat.SAFETENSORS)


def test_a_process_builds_one_hub_and_keeps_it(app: HubCelery) -> None:
    assert app.hub is app.hub
    first = app.hub
    app.close_hub()
    assert app.hub is not first
    app.close_hub()


def test_a_forked_child_builds_its_own_hub_and_leaves_the_parents_open(app: HubCelery) -> None:
    """A connection used from both sides of a fork mixes their conversations."""
    parents = app.hub
    parents.metadata.update_database()
    child = os.fork()
    if child == 0:
        own = app.hub
        own.metadata.check()
        app.close_hub()
        os._exit(0 if own is not parents and str(os.getpid()) in own.worker else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    parents.metadata.check()
    assert app.hub is parents
    app.close_hub()


def test_every_task_of_the_wire_contract_is_registered(app: HubCelery) -> None:
    """A task that no module of TASK_MODULES defines would be refused by every worker as unknown."""
    app.loader.import_default_modules()
    contract = {value for name, value in vars(names).items() if name.isupper() and str(value).count(".") == 2}
    assert len(contract) > 15  # or nothing would be compared
    assert contract - set(app.tasks) == set()


def test_a_follow_up_goes_to_the_queue_of_its_task(app: HubCelery) -> None:
    with app.connection_for_write() as connection:
        for queue in app.conf.task_queues:
            queue.bind(connection.default_channel).declare()
        app.hub.send(names.ROUNDS_AGGREGATE, {"model_id": 1}, None)
        app.hub.send("others.told", {"model_id": 1}, "others")
        for queue, task in ((names.AGGREGATE_QUEUE, names.ROUNDS_AGGREGATE), ("others", "others.told")):
            message = connection.SimpleQueue(queue).get(timeout=5)
            assert message.headers["task"] == task
            assert message.headers["ignore_result"]
            assert message.payload[0] == [{"model_id": 1}]
    app.close_hub()


def test_a_command_starts_without_what_only_others_need() -> None:
    """`python -m worker --help` waits for no database driver and no numerics."""
    heavy = ("celery", "sqlalchemy", "numpy", "rich.table")
    code = f"import sys, worker.cli.main; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
