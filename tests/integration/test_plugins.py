"""Plugins: the examples of docs/extend.md, as a third party would run them, in a real worker."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.errors import ConfigurationError
from config.settings import Settings
from fedqueue import Client, Rejected
from tests.hubs import hub_running, run_worker_command
from worker.plugins import load_plugins

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extend.md"


def _examples() -> dict[str, str]:
    """The page's modules by file name."""
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return dict(blocks)


def test_an_aggregator_and_a_requirement_take_thirty_lines_each_at_most() -> None:
    examples = _examples()
    assert sorted(examples) == ["balanced.py", "capped.py"]
    assert all(len(source.strip().splitlines()) <= 30 for source in examples.values())


@pytest.fixture
def client(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of a hub that was told of both modules."""
    for name, source in _examples().items():
        (tmp_path / name).write_text(source)
    monkeypatch.setenv("FEDQUEUE_HOME", str(home))
    variables = {"FEDQUEUE_PLUGINS": "capped, balanced", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    with hub_running(home, variables), Client() as made:
        yield made


def test_a_third_partys_rules_run_in_a_round(client: Client, home: Path, tmp_path: Path) -> None:
    """Weights 10 and 1000, capped at 30: (10 * 0 + 30 * 4) / 40; 1000 of 1010 was too large a share at first."""
    model = client.create_model(
        aggregator="capped_fedavg",
        aggregator_params={"cap": 30},
        requirement="balanced",
        requirement_args={"share": 0.99},
        data_format="json",
    )
    one, two = (client.register_client(model.model_id).client_id for _ in range(2))
    client.submit_update(model.model_id, two, [4.0], num_examples=1000)
    client.submit_update(model.model_id, one, [0.0], num_examples=10)
    with pytest.raises(TimeoutError):
        client.wait_for_aggregate(model.model_id, after=0, timeout=2)
    assert client.progress(model.model_id).waits_for.startswith("balanced: ")
    variables = {"FEDQUEUE_PLUGINS": "capped, balanced", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    told = run_worker_command(home, "progress", str(model.model_id), **variables)
    assert "next aggregate waiting: balanced: " in told.stdout
    client.edit_model(model.model_id, requirement="balanced", requirement_args={"share": 0.995})
    client.wait_for_aggregate(model.model_id, after=0)
    assert client.fetch_latest(model.model_id).data == [3.0]


def test_a_plugins_arguments_are_checked_like_any_other(client: Client) -> None:
    with pytest.raises(Rejected, match="did you mean 'cap'"):
        client.create_model(aggregator="capped_fedavg", aggregator_params={"capp": 30})
    with pytest.raises(Rejected, match="less than 1"):
        client.create_model(requirement="balanced", requirement_args=[2])


def test_an_installed_package_declares_its_module_or_something_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entry points are written both ways: `module` and `module:attribute`."""
    (tmp_path / "declared_plugin.py").write_text("LOADED = True")
    (tmp_path / "other_plugin.py").write_text("LOADED = True")
    package = tmp_path / "theirs-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[fedqueue.plugins]\none = declared_plugin\ntwo = other_plugin:LOADED\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert set(load_plugins(Settings())) >= {"declared_plugin", "other_plugin"}


def test_a_plugin_that_can_not_be_imported_is_said_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('not today')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        load_plugins(Settings(plugins=("broken_plugin", "no_such_plugin")))
    first, second = refused.value.problems
    assert "FEDQUEUE_PLUGINS: 'broken_plugin' can't be imported: RuntimeError: not today" in first
    assert "No module named 'no_such_plugin'" in second
