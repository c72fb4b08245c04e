"""Which URLs a setting takes. The messages never quote a URL: it may hold a password."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

from fedqueue.buckets import SCHEMES, check_bucket_url, is_bucket
from fedqueue.tls import read_address

_DATABASES: Final = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "mariadb": "mariadb+pymysql",
    "mariadb+pymysql": "mariadb+pymysql",
    # What many tools call MariaDB. A MySQL server is told from it at the first connection, and refused.
    "mysql": "mariadb+pymysql",
    "mysql+pymysql": "mariadb+pymysql",
}
_BROKERS: Final = ("redis", "rediss", "redis+socket", "amqp", "amqps", "memory")
_RESULTS: Final = ("redis", "rediss", "redis+socket", "rpc", "cache+memory")


def _scheme(url: str, example: str) -> str:
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ValueError(f"is not a URL: write it like {example}")
    return scheme.lower()


def normalised_database_url(url: str) -> str:
    """`postgres://…` → `postgresql+psycopg://…`, `mariadb://…` → `mariadb+pymysql://…`: the drivers installed."""
    scheme = _scheme(url, "postgresql://user:password@host/database")
    if scheme not in _DATABASES:
        raise ValueError(
            f"{scheme}:// is not a database known here; use sqlite:////absolute/file, postgresql:// or mariadb://"
        )
    if _DATABASES[scheme] == "sqlite" and url.partition("://")[2].strip("/") in ("", ":memory:"):
        raise ValueError("an in-memory SQLite database is another one in every process: name a file, sqlite:////path")
    if _DATABASES[scheme].startswith("mariadb") and not urlsplit(url).path.strip("/"):
        raise ValueError("must name the database: mariadb://user:password@host/database")
    return _DATABASES[scheme] + url[len(scheme) :]


def check_broker_url(url: str) -> str:
    """The URL of a broker that keeps what it has accepted."""
    scheme = _scheme(url, "redis://host:6379/0")
    if scheme in ("filesystem", "sqla", "sqlalchemy") or scheme.startswith("sqla+"):
        raise ValueError(f"{scheme}:// loses messages when a worker is killed; use redis:// or amqp://")
    if scheme not in _BROKERS:
        raise ValueError(f"{scheme}:// is not a broker known here; use one of {', '.join(_BROKERS[:-1])}")
    read_address(url)
    return url


def default_result_url(broker_url: str) -> str:
    """Where answers go if nothing is said: through a Redis broker too, else back over RabbitMQ."""
    if broker_url.startswith("amqp"):
        return "rpc://"
    return "cache+memory://" if broker_url.startswith("memory") else broker_url


def check_result_url(url: str) -> str:
    """The URL of a result backend."""
    scheme = _scheme(url, "redis://host:6379/0")
    if scheme not in _RESULTS:
        raise ValueError(f"{scheme}:// is no result backend known here; use one of {', '.join(_RESULTS[:-1])}")
    read_address(url)
    return url


def check_store_url(url: str) -> str:
    """The URL of the blob store."""
    scheme = _scheme(url, "file:///absolute/folder")
    if is_bucket(url):
        return check_bucket_url(url)
    if scheme != "file":
        raise ValueError(
            f"{scheme}:// is not a store known here; use file:///absolute/folder, or a bucket of "
            f"{', '.join(SCHEMES)}, like s3://bucket/folder"
        )
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not unquote(parts.path).startswith("/") or parts.query:
        raise ValueError("must be file:///absolute/folder, with three slashes")
    return url
