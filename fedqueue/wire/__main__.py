"""`python -m fedqueue.wire FOLDER`: the AsyncAPI document and the JSON Schemas, written into the folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedqueue.wire.asyncapi import document
from fedqueue.wire.schemas import schema_files


def files() -> dict[str, str]:
    """The text of each file, by its path within the folder."""
    written: Mapping[str, Any] = {
        "asyncapi.json": document(),
        **{f"schemas/{name}": schema for name, schema in schema_files().items()},
    }
    return {path: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for path, content in written.items()}


def main() -> None:
    """Write the files; a schema of a message that there is no more is deleted."""
    parser = argparse.ArgumentParser(prog="python -m fedqueue.wire", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    schemas = folder / "schemas"
    schemas.mkdir(parents=True, exist_ok=True)
    found = files()
    for path, text in found.items():
        (folder / path).write_text(text, encoding="utf-8")
    for old in schemas.glob("*.json"):
        if f"schemas/{old.name}" not in found:
            old.unlink()


if __name__ == "__main__":
    main()
