"""The page that the harness writes."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests.chaos.evidence import Evidence
from tests.chaos.report import ROWS, page, read_evidence

ROOT = Path(__file__).parents[2]


def test_a_page_has_a_line_for_every_run_and_a_dash_for_what_it_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "evidence.jsonl"
    monkeypatch.setenv("CHAOS_EVIDENCE", str(kept))
    said: list[object] = []
    put_down = Evidence(lambda _, value: said.append(value))
    put_down("process", "sqlite and valkey", updates=1234, kills=300, violations=0, quiet_after_seconds=0.5)
    put_down("process", "mariadb and redis", updates=6, kills=400, violations=0)
    assert str(said[0]).endswith(": updates 1234, kills 300, violations 0, quiet after seconds 0.5")
    lines = page(read_evidence([kept])).splitlines()
    assert "| sqlite and valkey | 1,234 | 300 | 0 | 0.5 |" in "\n".join(lines)
    assert "| mariadb and redis | 6 | 400 | 0 | – |" in "\n".join(lines)
    assert any("2 runs, 700 processes killed, 1,240 updates accepted, **0 violations**" in line for line in lines)


def test_what_others_come_to_counts_for_none_of_ours() -> None:
    figures = {"updates": 600, "kills": 9, "violations": 5}
    assert "0 processes killed" in page([{"row": "peers", "case": "FMA's logic", "seed": 1, "figures": figures}])


def test_a_row_that_nobody_has_declared_is_refused() -> None:
    with pytest.raises(KeyError, match="kittens"):
        page([json.loads('{"row": "kittens", "case": "", "seed": 1, "figures": {}}')])


def test_no_test_shows_a_row_that_the_page_has_not() -> None:
    shown = set()
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "evidence":
                assert isinstance(node.args[0], ast.Constant), path
                shown.add(node.args[0].value)
    assert shown <= set(ROWS)
    assert {"process", "recovery", "peers"} <= shown
