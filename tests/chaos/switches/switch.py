"""What a switch is: one guard of ours, how it is turned off, and the test that must not let that pass."""

from __future__ import annotations

from dataclasses import dataclass

from tests.chaos.switches.source_edits import Edit


@dataclass(frozen=True, slots=True)
class Switch:
    """One guard.

    `against` says what would happen without it. `reds` are the tests (pytest's node ids, without parameters or with
    them) each of which must fail while it is off, by an assertion of its own; or by one of the errors `raises`, where
    the guard's absence is an error that no test may meet. `covers` names constraints of the schema that it takes away.
    """

    name: str
    against: str
    edits: tuple[Edit, ...]
    reds: tuple[str, ...]
    raises: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()
    wide: bool = False
