"""Everything that can be configured, as one explicit, validated, frozen object.

Each field is an environment variable, `FEDQUEUE_` and its name in capitals, and may stand in a `.env` file.
`config.loading.load_settings` reads them; nothing is read at import.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from config.places import broker_url_in, database_url_in, store_url_in
from config.secrets import masked
from config.urls import (
    check_broker_url,
    check_result_url,
    check_store_url,
    default_result_url,
    normalised_database_url,
)
from fedqueue.blobs import path_of
from fedqueue.buckets import check_bucket_url, is_bucket, key_in

PREFIX: Final = "FEDQUEUE_"

MIB: Final = 1 << 20


def _absolute(home: Path) -> Path:
    if any(character in "?#\n" for character in str(home)):
        raise ValueError("must not contain ?, # or a line break: the database's URL could not name a file in it")
    return home.expanduser().absolute()


def _media(place: Any) -> Any:
    """`/srv/media`, or `s3://bucket/folder`, checked."""
    if isinstance(place, str) and is_bucket(place):
        return check_bucket_url(place)
    if place is not None and not Path(place).is_absolute():
        raise ValueError("must be an absolute path, or a bucket's URL like s3://bucket/folder")
    return None if place is None else Path(place)


def _lies_in(store_url: str, media: Path | str) -> bool:
    if isinstance(media, str):
        return key_in(media, store_url) is not None
    return not is_bucket(store_url) and path_of(store_url).is_relative_to(media)


def _folders(value: Any) -> Any:
    """`/data/a:/data/b`, as in PATH, or a sequence."""
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


def _urls(value: Any) -> Any:
    """`s3://one s3://two/folder`, or a sequence; each checked."""
    parts = value.split() if isinstance(value, str) else value
    return [check_bucket_url(part) for part in parts]


def _names(value: Any) -> Any:
    """`one,two`, or a sequence."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Days = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[ByteSize, Field(gt=0)]


class Settings(BaseSettings):
    """The effective configuration. `repr` and `shown()` mask the passwords in URLs; the fields hold them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
        # Lists are written as paths are, not as JSON.
        enable_decoding=False,
    )

    # --- places

    home: Annotated[Path, AfterValidator(_absolute)] = Field(
        default=Path(".fedqueue"), description="Folder of the embedded database, store, server and logs."
    )
    database_url: Annotated[str, AfterValidator(normalised_database_url)] = Field(
        default_factory=lambda data: database_url_in(data["home"]),
        description="SQLite or PostgreSQL; by default a SQLite file in the home folder.",
    )
    metadata_connector: Literal["sqlalchemy", "django"] = Field(
        default="sqlalchemy",
        description="django: the database is an FMA deployment's, and the hub works beside it: docs/fma.md.",
    )
    fma_media: Annotated[Path | str | None, BeforeValidator(_media)] = Field(
        default=None,
        description="With django: the deployment's media folder (MEDIA_ROOT), or the folder of a bucket in which its "
        "django-storages keeps them: s3://bucket/location (gs://, az://).",
    )
    fma_migrate_command: str | None = Field(
        default=None,
        min_length=1,
        description="With django: what migrates the deployment's own tables first: python manage.py migrate",
    )
    broker_url: Annotated[str, AfterValidator(check_broker_url)] = Field(
        default_factory=lambda data: broker_url_in(data["home"]),
        description="Redis or RabbitMQ; by default the private server that `python -m worker up` starts.",
    )
    result_url: Annotated[str, AfterValidator(check_result_url)] = Field(
        default_factory=lambda data: default_result_url(data["broker_url"]),
        description="Where answers wait for those who asked; by default the broker.",
    )
    store_url: Annotated[str, AfterValidator(check_store_url)] = Field(
        default_factory=lambda data: store_url_in(data["home"], data.get("fma_media")),
        description="Where model data lies: file:///absolute/folder, or s3://bucket/folder (gs://, az://); with "
        "django in a folder of FEDQUEUE_FMA_MEDIA.",
    )
    store_outside_roots: Annotated[tuple[Path, ...], BeforeValidator(_folders)] = Field(
        default=(),
        description="Folders beside the store in which a submission may name a file; separated by a colon.",
    )
    store_outside_urls: Annotated[tuple[str, ...], BeforeValidator(_urls)] = Field(
        default=(),
        description="Bucket URLs beside the store in which a submission may name an object; separated by spaces.",
    )
    cache_folder: Path = Field(
        default_factory=lambda data: data["home"] / "cache",
        description="Where a worker whose store is a bucket keeps copies of what it used lately.",
    )
    cache_bytes: Bytes = Field(
        default=ByteSize(20 * 1024 * MIB),
        description="How much that folder may hold, besides the updates of the rounds under way.",
    )

    # --- rounds

    lease_seconds: Seconds = Field(
        default=30.0,
        description="How long a worker holds a model without renewing: a dead one's round waits so long.",
    )
    sweep_seconds: Seconds = Field(default=5.0, description="How often a lost hint is made up for.")
    max_attempts: int = Field(
        default=5,
        ge=1,
        le=100,
        description="Crashed rounds with an update before the search for a poisonous one.",
    )
    retry_base_seconds: Seconds = Field(default=1.0, description="A FAILED update rests up to this, doubling,")
    retry_cap_seconds: Seconds = Field(default=60.0, description="and never longer than this.")

    # --- limits

    memory_budget_bytes: Bytes = Field(
        default=ByteSize(256 * MIB),
        description="What one aggregation may hold in memory, whatever its updates' size.",
    )
    max_update_bytes: Bytes = Field(default=ByteSize(16 * 1024 * MIB), description="A larger update is refused.")
    max_tensors: int = Field(default=100_000, ge=1, description="An update of more tensors is refused.")
    max_header_bytes: Bytes = Field(
        default=ByteSize(100 * MIB), description="A safetensors file with a longer header is refused."
    )
    max_json_bytes: Bytes = Field(
        default=ByteSize(256 * MIB), description="Longer JSON data is refused: reading takes up to five times its size."
    )
    max_unpacked_ratio: int = Field(
        default=100, ge=1, description="An .npz that unpacks to more than so many times its own size is refused,"
    )
    ratio_free_bytes: Bytes = Field(
        default=ByteSize(16 * MIB), description="if it unpacks to more than this: smaller ones may be packed tighter."
    )

    # --- back-pressure: what one client of a model, and all of them together, may ask of the hub
    #
    # Where there is a default, no ordinary deployment meets it: it stops a loop gone wild. Where the ordinary differs
    # by orders of magnitude (how many clients a model has, how large its updates are), there is none.

    client_submissions_per_minute: int | None = Field(
        default=6_000, ge=1, le=1_000_000, description="More of one client to one model are refused for now."
    )
    model_submissions_per_minute: int | None = Field(
        default=None, ge=1, le=1_000_000, description="The same of all clients together; by default no limit."
    )
    client_open_updates: int | None = Field(
        default=1_000, ge=1, description="While so many of a client's wait for a model's rounds, more are refused."
    )
    model_open_updates: int | None = Field(
        default=100_000, ge=1, description="The same of all clients together: a round looks through what waits."
    )
    client_open_bytes: Bytes | None = Field(
        default=None, description="As client_open_updates, by the size of their data; by default no limit."
    )
    model_open_bytes: Bytes | None = Field(
        default=None, description="As model_open_updates, by the size of their data; by default no limit."
    )

    # --- tasks and workers

    task_soft_time_limit_seconds: Seconds = Field(default=270.0, description="A task is told to end after this.")
    task_time_limit_seconds: Seconds = Field(default=300.0, description="A task's process is killed after this.")
    result_expires_seconds: Seconds = Field(default=300.0, description="How long an answer waits to be fetched.")
    worker_concurrency: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Processes a worker runs tasks in; by default as many as cores.",
    )
    worker_max_memory_bytes: Bytes | None = Field(
        default=None, description="A worker's process is replaced after a task that left it larger than this."
    )
    soft_shutdown_seconds: Seconds = Field(
        default=20.0,
        description="How long a worker told to stop lets its tasks go on before it gives them back.",
    )
    watchdog_seconds: Seconds = Field(
        default=30.0,
        description="A worker whose pool begins nothing for so long, though it could, ends to be started anew.",
    )
    embedded_workers: int = Field(default=2, ge=1, le=64, description="Workers that `python -m worker up` runs.")

    # --- upkeep

    garbage_after_seconds: Seconds = Field(
        default=24 * 3600.0, description="A blob that no row names is deleted when it is older than this."
    )
    retain_inputs: int | None = Field(
        default=None,
        ge=1,
        description="The inputs of so many newest aggregates of a model are kept, for verify; by default all.",
    )
    retain_sent_days: Days = Field(
        default=7.0, description="Follow-ups that the broker has accepted are deleted after this."
    )
    retain_dead_letters_days: Days | None = Field(
        default=None, description="Dead letters are deleted after this, settled or not; by default never."
    )
    retain_rounds_days: Days | None = Field(
        default=None,
        description="Who ran which round is deleted after this; by default never. Aggregates and lineage stay.",
    )
    retain_feed_days: Days | None = Field(
        default=None,
        description="Logs and metrics are deleted after this; by default never. Longer than the longest run lasts.",
    )
    database_pool_size: int = Field(
        default=5, ge=1, description="Connections to the database that a process keeps open."
    )

    plugins: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        default=(),
        description="Python modules to import at start, for aggregators and requirements of others; by commas.",
    )

    # --- signed messages: docs/security.md

    signing_key: Path | None = Field(
        default=None, description="PEM file of the RSA key that the hub signs by; from then on it takes signed messages"
    )
    signing_certificate: Path | None = Field(default=None, description="alone. PEM file of that key's certificate.")
    signing_trusted_certificates: str | None = Field(
        default=None, min_length=1, description="Folder of the certificates that are believed, or a pattern: /a/*.pem."
    )

    # --- telling others

    notify_task: str | None = Field(
        default=None,
        min_length=1,
        description="Your task that is told what happens to models: docs/notifications.md.",
    )
    notify_queue: str | None = Field(default=None, min_length=1, description="Queue that these are sent to.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Least level logged.")
    log_format: Literal["json", "console"] = Field(default="json", description="For machines, or for people.")

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("store_outside_roots", mode="after")
    @classmethod
    def _absolute_roots(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if not root.is_absolute():
                raise ValueError(f"{root} is not an absolute path")
        return roots

    @model_validator(mode="after")
    def _agree_with_each_other(self) -> Settings:
        if self.task_soft_time_limit_seconds >= self.task_time_limit_seconds:
            raise ValueError(
                f"{PREFIX}TASK_SOFT_TIME_LIMIT_SECONDS ({self.task_soft_time_limit_seconds:g}) must be below "
                f"{PREFIX}TASK_TIME_LIMIT_SECONDS ({self.task_time_limit_seconds:g}), "
                "so that a task is told to end before its process is killed"
            )
        if self.retry_base_seconds > self.retry_cap_seconds:
            raise ValueError(
                f"{PREFIX}RETRY_BASE_SECONDS ({self.retry_base_seconds:g}) must not exceed "
                f"{PREFIX}RETRY_CAP_SECONDS ({self.retry_cap_seconds:g})"
            )
        self._check_fma()
        signing = ("signing_key", "signing_certificate", "signing_trusted_certificates")
        missing = [PREFIX + name.upper() for name in signing if getattr(self, name) is None]
        if 0 < len(missing) < len(signing):
            names = ", ".join(missing)
            raise ValueError(f"signed messages need a key, its certificate and those to trust: set {names} as well")
        if (self.notify_task is None) != (self.notify_queue is None):
            raise ValueError(f"{PREFIX}NOTIFY_TASK and {PREFIX}NOTIFY_QUEUE belong together: set both or neither")
        return self

    def _check_fma(self) -> None:
        if self.metadata_connector != "django":
            for name in ("fma_media", "fma_migrate_command"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{PREFIX}{name.upper()} needs {PREFIX}METADATA_CONNECTOR=django")
            return
        if self.fma_media is None:
            raise ValueError(
                f"{PREFIX}METADATA_CONNECTOR=django needs {PREFIX}FMA_MEDIA: the deployment's rows name files in it"
            )
        if self.database_url.startswith("mariadb"):
            raise ValueError(f"{PREFIX}DATABASE_URL: FMA works on SQLite or PostgreSQL, not on MariaDB")
        if not _lies_in(self.store_url, self.fma_media):
            raise ValueError(
                f"{PREFIX}STORE_URL must lie in {PREFIX}FMA_MEDIA ({self.fma_media}): the deployment serves its files"
            )

    @property
    def visibility_timeout_seconds(self) -> float:
        """After this Redis gives a message to somebody else: never while its task may still run."""
        return 4 * self.task_time_limit_seconds

    def shown(self) -> dict[str, Any]:
        """Every value as JSON has it, passwords masked."""
        return {
            name: masked(value) if isinstance(value, str) else value
            for name, value in self.model_dump(mode="json").items()
        }

    def as_environment(self) -> dict[str, str]:
        """The environment that gives a child process these very settings, passwords included."""
        values = self.model_dump(mode="json")
        values["store_outside_roots"] = os.pathsep.join(values["store_outside_roots"])
        values["store_outside_urls"] = " ".join(values["store_outside_urls"])
        values["plugins"] = ",".join(values["plugins"])
        return {PREFIX + name.upper(): str(value) for name, value in values.items() if value is not None}

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return list(self.shown().items())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The .env file is read by load_settings: it also holds what is meant for others, compose for one.
        return (init_settings, env_settings)
