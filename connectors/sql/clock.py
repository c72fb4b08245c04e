"""The database's clock. Leases are compared where they are kept: workers' clocks need not agree."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class now_ms(FunctionElement[int]):  # reads as the SQL function that it is
    """Milliseconds since 1970, now (not when the transaction began)."""

    type = BigInteger()
    inherit_cache = True
    name = "now_ms"


@compiles(now_ms, "postgresql")
def _postgresql(element: now_ms, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(now_ms, "sqlite")
def _sqlite(element: now_ms, compiler: Any, **kw: Any) -> str:
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)"


@compiles(now_ms, "mysql", "mariadb")
def _mariadb(element: now_ms, compiler: Any, **kw: Any) -> str:
    return "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)"
