"""What can go wrong with the demonstration."""

from __future__ import annotations

from worker.errors import ProcessError


class DemoNeedsPackage(ProcessError):
    """A package that only the demonstration uses is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"the demonstration needs {package}, which running a hub does not: "
            "install it (`pip install -r requirements/dev.txt`)"
        )
        self.package = package


class DemoFailed(ProcessError):
    """The demonstration did not come to its end."""
