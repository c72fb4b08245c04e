"""What an FMA deployment can't hold, or lacks."""

from __future__ import annotations

from connectors.errors import ConnectorError


class PathNotServed(ConnectorError):
    """FMA's rows name files by a short path inside the media folder: these bytes have none."""

    def __init__(self, uri: str, media: str, rule: str) -> None:
        super().__init__(f"{uri} can't be named in the deployment: {rule}; its media folder is {media}")
        self.uri = uri
        self.media = media


class NoDeveloper(ConnectorError):
    """Every model of FMA's belongs to one of its users, and there is none to own this one."""

    def __init__(self, user_id: str | None) -> None:
        super().__init__(
            f"user_id: {user_id!r} is no user of the deployment, which has no active superuser to own the model "
            "instead: make one by `manage.py createsuperuser`"
        )
        self.user_id = user_id


class MigrationFailed(ConnectorError):
    """The deployment's own migrate command did not end well."""

    def __init__(self, command: str, code: int, said: str) -> None:
        super().__init__(f"FEDQUEUE_FMA_MIGRATE_COMMAND ({command}) ended with code {code}: {said}")
        self.code = code


class NoDeployment(ConnectorError):
    """The database has no FMA tables, or lacks some."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__(
            f"the database lacks {', '.join(missing)}: FEDQUEUE_METADATA_CONNECTOR=django needs the database of an FMA "
            "deployment, migrated by its own `manage.py migrate`"
        )
        self.missing = missing
