"""What a log line holds, and what it never does."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from config.loading import load_settings
from worker.logs import set_up_logging


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def logged(folder: Path, **settings: Any) -> Path:
    """Set logging up into a file; where it is."""
    set_up_logging(load_settings(env_file=None, **settings), str(folder / "log"))
    return folder / "log"


def test_our_events_and_the_librarys_records_are_json_lines_of_one_form(tmp_path: Path) -> None:
    log = logged(tmp_path)
    structlog.get_logger("ours").info("round.posted", number=3)
    logging.getLogger("theirs").warning("retrying in %s s", 2)
    ours, theirs = (json.loads(line) for line in log.read_text().splitlines())
    assert (ours["event"], ours["number"], ours["logger"], ours["level"]) == ("round.posted", 3, "ours", "info")
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("retrying in 2 s", "theirs", "warning")
    assert ours["timestamp"].endswith("Z")


def test_a_password_is_masked_in_text_values_and_tracebacks(tmp_path: Path) -> None:
    log = logged(tmp_path)
    url = "redis://:hushhush@host:6379/0"
    structlog.get_logger().info(f"using {url}", url=url, all=[url], by={"name": url})
    logging.getLogger("theirs").error("lost %s", url)
    try:
        raise ConnectionError(f"no answer from {url}")
    except ConnectionError:
        logging.getLogger("theirs").exception("failed")
    text = log.read_text()
    assert "hushhush" not in text
    assert text.count("redis://:***@host:6379/0") == 6
    assert "ConnectionError" in text


def test_the_level_is_the_settings_own(tmp_path: Path) -> None:
    log = logged(tmp_path, log_level="warning")
    structlog.get_logger("ours").info("too small")
    structlog.get_logger("ours").warning("large enough")
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == ["large enough"]


def test_for_people_the_lines_are_no_json(tmp_path: Path) -> None:
    log = logged(tmp_path, log_format="console")
    structlog.get_logger("ours").info("round.posted", number=3)
    assert "round.posted" in log.read_text()
    assert not log.read_text().startswith("{")
