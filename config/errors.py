"""What can be wrong with a configuration, said for the person who wrote it."""

from __future__ import annotations

from collections.abc import Sequence


class ConfigurationError(Exception):
    """The configuration can't be used: each problem names the variable and the rule it breaks."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
