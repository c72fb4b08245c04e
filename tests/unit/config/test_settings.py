"""Settings: what is read from where, what is refused, and what is never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from config.errors import ConfigurationError
from config.loading import load_settings
from config.places import socket_in
from config.settings import Settings


def refusal(**variables: str) -> str:
    """What load_settings says of those variables."""
    os.environ.update(variables)  # undone by the fixture that cleans the environment
    with pytest.raises(ConfigurationError) as caught:
        load_settings(env_file=None)
    return str(caught.value)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))


def test_without_configuration_everything_lies_in_the_home_folder(tmp_path: Path) -> None:
    settings = load_settings(env_file=None, home=tmp_path)
    assert settings.database_url == f"sqlite:///{tmp_path}/fedqueue.db"
    assert settings.store_url == f"file://{tmp_path}/store"
    assert settings.broker_url == f"redis+socket://{socket_in(tmp_path)}?virtual_host=0"
    assert settings.result_url == settings.broker_url


def test_a_relative_home_is_made_absolute_so_that_every_process_means_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(env_file=None).home == tmp_path / ".fedqueue"


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("FEDQUEUE_LEASE_SECOND", "FEDQUEUE_LEASE_SECONDS"),
        ("FEDQUEUE_BROKER_ULR", "FEDQUEUE_BROKER_URL"),
        ("FEDQUEUE_DATABASEURL", "FEDQUEUE_DATABASE_URL"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_known_name(misspelt: str, meant: str) -> None:
    """Ignored, it would leave a default in force that somebody believes to have changed."""
    said = refusal(**{misspelt: "1"})
    assert misspelt in said
    assert f"did you mean {meant}?" in said
    assert "the environment" in said


def test_a_variable_like_no_other_is_refused_without_a_guess() -> None:
    assert "did you mean" not in refusal(FEDQUEUE_QQQQ="1")


def test_a_misspelt_variable_in_the_env_file_is_refused_and_the_file_named(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("FEDQUEUE_SWEEP_SECOND=1\n")
    with pytest.raises(ConfigurationError, match=r"\.env.*FEDQUEUE_SWEEP_SECONDS"):
        load_settings(env_file=env_file)


def test_the_env_file_is_read_and_what_it_holds_for_others_is_left_alone(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("POSTGRES_PASSWORD=secret\nFEDQUEUE_SWEEP_SECONDS=7\nFEDQUEUE_LEASE_SECONDS=40\n")
    os.environ["FEDQUEUE_LEASE_SECONDS"] = "50"
    settings = load_settings(env_file=env_file)
    assert settings.sweep_seconds == 7
    assert settings.lease_seconds == 50, "the environment goes before the file"
    assert load_settings(env_file=env_file, lease_seconds=60).lease_seconds == 60


@pytest.mark.parametrize(
    ("variable", "value", "rule"),
    [
        ("FEDQUEUE_LEASE_SECONDS", "0", "greater than 0"),
        ("FEDQUEUE_LEASE_SECONDS", "inf", "finite"),
        ("FEDQUEUE_MAX_ATTEMPTS", "many", "integer"),
        ("FEDQUEUE_MAX_UNPACKED_RATIO", "0", "greater than or equal to 1"),
        ("FEDQUEUE_MAX_UNPACKED_RATIO", "2.5", "integer"),
        ("FEDQUEUE_RATIO_FREE_BYTES", "0", "greater than 0"),
        ("FEDQUEUE_STORE_URL", "ftp://host/models", "is not a store known here"),
        ("FEDQUEUE_STORE_URL", "s3://", "like s3://bucket"),
        ("FEDQUEUE_STORE_URL", "s3://bucket/../models", "must not hold"),
        ("FEDQUEUE_STORE_OUTSIDE_URLS", "s3://one two", "like s3://bucket"),
        ("FEDQUEUE_STORE_URL", "/srv/store", "not a URL"),
        ("FEDQUEUE_STORE_URL", "file://srv/store", "three slashes"),
        ("FEDQUEUE_DATABASE_URL", "mysql+mysqldb://db/hub", "postgresql:// or mariadb://"),
        ("FEDQUEUE_DATABASE_URL", "mariadb://hub@db", "must name the database"),
        ("FEDQUEUE_DATABASE_URL", "sqlite://", "in-memory"),
        ("FEDQUEUE_BROKER_URL", "filesystem://", "loses messages"),
        ("FEDQUEUE_BROKER_URL", "http://host", "no broker|not a broker"),
        ("FEDQUEUE_RESULT_URL", "db+sqlite:///results", "no result backend"),
        ("FEDQUEUE_HOME", "/srv/what?", "must not contain"),
        ("FEDQUEUE_LOG_FORMAT", "xml", "json.*console"),
        ("FEDQUEUE_STORE_OUTSIDE_ROOTS", "/data:uploads", "uploads is not an absolute path"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_by_variable_and_rule(variable: str, value: str, rule: str) -> None:
    with pytest.raises(ConfigurationError, match=rule) as caught:
        raise ConfigurationError([refusal(**{variable: value})])
    assert str(caught.value).startswith(f"{variable}: ")


@pytest.mark.parametrize("scheme", ["mariadb", "mariadb+pymysql", "mysql", "mysql+pymysql"])
def test_mariadb_is_meant_by_each_of_its_names(scheme: str) -> None:
    settings = load_settings(env_file=None, database_url=f"{scheme}://hub:secret@db:3306/hub?ssl_ca=/etc/ca.pem")
    assert settings.database_url == "mariadb+pymysql://hub:secret@db:3306/hub?ssl_ca=/etc/ca.pem"


def test_every_mistake_is_said_at_once() -> None:
    said = refusal(FEDQUEUE_LEASE_SECONDS="0", FEDQUEUE_MAX_ATTEMPTS="0", FEDQUEUE_HOME="a?b")
    assert [line.partition(":")[0] for line in said.splitlines()] == [
        "FEDQUEUE_HOME",
        "FEDQUEUE_LEASE_SECONDS",
        "FEDQUEUE_MAX_ATTEMPTS",
    ]


def test_a_task_must_be_told_to_end_before_it_is_killed() -> None:
    said = refusal(FEDQUEUE_TASK_SOFT_TIME_LIMIT_SECONDS="300", FEDQUEUE_TASK_TIME_LIMIT_SECONDS="300")
    assert "FEDQUEUE_TASK_SOFT_TIME_LIMIT_SECONDS (300) must be below FEDQUEUE_TASK_TIME_LIMIT_SECONDS (300)" in said


def test_a_notification_needs_both_its_task_and_its_queue() -> None:
    assert "set both or neither" in refusal(FEDQUEUE_NOTIFY_TASK="others.told")


def test_celerys_own_variables_are_refused_because_celery_would_prefer_them() -> None:
    assert "would overrule FEDQUEUE_BROKER_URL" in refusal(CELERY_BROKER_URL="redis://elsewhere")


def test_a_password_is_in_the_value_and_in_nothing_that_is_shown() -> None:
    settings = load_settings(
        env_file=None,
        database_url="postgresql://hub:s3cr@t@db/hub",
        broker_url="rediss://:s3cret@broker:6379/0?password=s3cret",
    )
    assert settings.database_url == "postgresql+psycopg://hub:s3cr@t@db/hub"
    for shown in (repr(settings), str(settings), str(settings.shown())):
        assert "s3cr" not in shown
        assert "postgresql+psycopg://hub:***@db/hub" in shown


def test_a_refusal_quotes_no_value_that_could_hold_a_password() -> None:
    said = refusal(FEDQUEUE_BROKER_URL="amqpp://hub:s3cret@host", FEDQUEUE_DATABASE_URL="oracle://hub:s3cret@host")
    assert "s3cret" not in said
    assert said.count("known here") == 2


def test_sizes_may_be_written_as_people_write_them() -> None:
    os.environ["FEDQUEUE_MEMORY_BUDGET_BYTES"] = "64MiB"
    assert load_settings(env_file=None).memory_budget_bytes == 64 * 1024 * 1024


def test_a_child_process_is_given_the_very_same_settings(tmp_path: Path) -> None:
    settings = load_settings(
        env_file=None, home=tmp_path, store_outside_roots=("/data/a", "/data/b"), max_tensors=7, notify_task="t",
        notify_queue="q", worker_max_memory_bytes="1GiB",
    )  # fmt: skip
    os.environ.update(settings.as_environment())
    assert load_settings(env_file=None) == settings


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings(env_file=None).lease_seconds = 1  # type: ignore[misc]


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("name", ["x" * 120, "with space", "percent%20"])
def test_a_home_whose_path_no_socket_can_have_gets_one_elsewhere_always_the_same(tmp_path: Path, name: str) -> None:
    """A socket's path is at most 107 bytes long, and the broker's URL carries it unescaped."""
    path = socket_in(tmp_path / name)
    assert tmp_path not in path.parents
    assert len(str(path)) <= 100
    assert path == socket_in(tmp_path / name) != socket_in(tmp_path / (name + "2"))


def test_beside_fma_the_store_lies_in_its_media_folder(tmp_path: Path) -> None:
    """The deployment serves the hub's aggregates from there."""
    fma = {"metadata_connector": "django", "fma_media": tmp_path / "media"}
    assert load_settings(env_file=None, home=tmp_path, **fma).store_url == f"file://{tmp_path}/media/fedqueue"


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_beside_fma_with_a_bucket_the_store_lies_in_a_folder_of_that(tmp_path: Path, scheme: str) -> None:
    fma = {"metadata_connector": "django", "fma_media": f"{scheme}://fma/media/"}
    assert load_settings(env_file=None, home=tmp_path, **fma).store_url == f"{scheme}://fma/media/fedqueue"
    elsewhere = load_settings(env_file=None, home=tmp_path, **fma, store_url=f"{scheme}://fma/media/of/the/hub")
    assert elsewhere.store_url == f"{scheme}://fma/media/of/the/hub"


@pytest.mark.parametrize(
    ("variables", "rule"),
    [
        ({"METADATA_CONNECTOR": "django"}, "needs FEDQUEUE_FMA_MEDIA"),
        ({"METADATA_CONNECTOR": "flask"}, "'sqlalchemy' or 'django'"),
        ({"FMA_MEDIA": "/m"}, "FEDQUEUE_FMA_MEDIA needs FEDQUEUE_METADATA_CONNECTOR=django"),
        ({"FMA_MIGRATE_COMMAND": "x"}, "FEDQUEUE_FMA_MIGRATE_COMMAND needs FEDQUEUE_METADATA_CONNECTOR=django"),
        ({"METADATA_CONNECTOR": "django", "FMA_MEDIA": "media"}, "FEDQUEUE_FMA_MEDIA: must be an absolute path, or a"),
        (
            {"METADATA_CONNECTOR": "django", "FMA_MEDIA": "s3:/b/m"},
            "FEDQUEUE_FMA_MEDIA: must be an absolute path, or a",
        ),
        ({"METADATA_CONNECTOR": "django", "FMA_MEDIA": "s3://b/../m"}, "FEDQUEUE_FMA_MEDIA: must not hold . or .."),
        ({"METADATA_CONNECTOR": "django", "FMA_MEDIA": "s3://b?x=1"}, "FEDQUEUE_FMA_MEDIA: must be like s3://bucket"),
        *(
            (
                {"METADATA_CONNECTOR": "django", "FMA_MEDIA": media, "STORE_URL": store},
                f"FEDQUEUE_STORE_URL must lie in FEDQUEUE_FMA_MEDIA ({media})",
            )
            for media, store in (
                ("/m", "file:///elsewhere"),
                ("/m", "s3://b/m/fedqueue"),
                ("s3://b/m", "file:///m/fedqueue"),
                ("s3://b/m", "s3://b/media/fedqueue"),
                ("s3://b/m", "s3://other/m/fedqueue"),
                ("s3://b/m", "gs://b/m/fedqueue"),
                ("s3://b/m", "s3://b/m"),  # a folder of its own: what is not a blob of the store is never FMA's there
                ("s3://b/m/fma", "s3://b/m"),
            )
        ),
        (
            {"METADATA_CONNECTOR": "django", "FMA_MEDIA": "/m", "DATABASE_URL": "mariadb://u@h/d"},
            "not on MariaDB",
        ),
    ],
)
def test_what_cant_be_beside_fma_is_refused_by_name(variables: dict[str, str], rule: str) -> None:
    assert rule in refusal(**{f"FEDQUEUE_{name}": value for name, value in variables.items()})


@pytest.mark.parametrize("media", [Path("/m"), "s3://b/m"])
def test_the_settings_beside_fma_reach_every_child(tmp_path: Path, media: Path | str) -> None:
    fma = {"metadata_connector": "django", "fma_media": media, "fma_migrate_command": "a b"}
    settings = load_settings(env_file=None, home=tmp_path, **fma)
    os.environ.update(settings.as_environment())
    assert load_settings(env_file=None) == settings
