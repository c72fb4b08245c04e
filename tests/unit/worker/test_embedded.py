"""What the embedded hub is made of: its settings, its server, its private folder, its endpoint."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from config.loading import load_settings
from worker.endpoint import remove_endpoint, write_endpoint
from worker.errors import PlaceRefused, ServerMissing
from worker.plan import embedded_settings, process_environment
from worker.server import find_server, make_private


def test_on_one_machine_leases_and_sweeps_are_short() -> None:
    settings = embedded_settings(load_settings(env_file=None))
    assert (settings.lease_seconds, settings.sweep_seconds) == (1.5, 0.5)


def test_what_the_user_has_set_is_left_even_if_it_is_the_default() -> None:
    settings = embedded_settings(load_settings(env_file=None, lease_seconds=30.0))
    assert (settings.lease_seconds, settings.sweep_seconds) == (30.0, 0.5)


def test_a_process_is_given_the_settings_and_none_of_the_surroundings(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("FEDQUEUE_SWEEP_SECONDS", "99")
    environment = process_environment(load_settings(env_file=None, home=home, sweep_seconds=2.0))
    assert environment["FEDQUEUE_SWEEP_SECONDS"] == "2.0"
    assert environment["FEDQUEUE_HOME"] == str(home)


def test_the_endpoint_is_written_for_its_user_alone_and_removed(home: Path) -> None:
    home.mkdir()
    settings = load_settings(env_file=None, home=home)
    path = home / "endpoint.json"
    write_endpoint(path, settings)
    assert json.loads(path.read_text()) == {
        "broker_url": settings.broker_url,
        "result_url": settings.result_url,
        "store_url": settings.store_url,
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    remove_endpoint(path)
    remove_endpoint(path)
    assert list(home.iterdir()) == []


def test_the_sockets_folder_is_private_even_where_it_was_not(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    make_private(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_link_in_the_place_of_the_sockets_folder_is_refused(tmp_path: Path) -> None:
    """In a folder that anybody may write to, another user could lead the socket to where they can read it."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "theirs")
    with pytest.raises(PlaceRefused, match="it is no folder"):
        make_private(tmp_path / "run")


def test_a_named_server_program_goes_before_all_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "my-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("REDIS_SERVER", str(program))
    assert find_server() == program


def test_a_named_server_program_that_is_not_there_is_not_replaced_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_SERVER", "/nowhere/server")
    with pytest.raises(ServerMissing, match="REDIS_SERVER names /nowhere/server"):
        find_server()
