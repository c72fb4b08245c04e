"""A bucket on a server that speaks S3's protocol, for what uses one."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.buckets import make_bucket, s3_server
from tests.servers import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3_server(tmp_path_factory.mktemp("moto")) as running:
        yield running


@pytest.fixture
def url(server: Server) -> str:
    """Of a new bucket."""
    name = f"models-{uuid4().hex}"
    make_bucket(server, name)
    return f"s3://{name}/hub"
