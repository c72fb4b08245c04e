"""Passwords in URLs, wherever they stand in a text."""

from __future__ import annotations

import pytest

from config.secrets import masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("amqp://hub:se@cret@host//", "amqp://hub:***@host//"),
        ("postgresql+psycopg://hub:secret@db/hub?sslmode=require", "postgresql+psycopg://hub:***@db/hub?sslmode=require"),
        ("redis+socket:///run/x.sock?password=secret&virtual_host=0", "redis+socket:///run/x.sock?password=***&virtual_host=0"),
        ("cannot reach redis://u:secret@a/0, nor amqp://u:secret@b//", "cannot reach redis://u:***@a/0, nor amqp://u:***@b//"),
        ("https://b.s3/x?X-Amz-Expires=9&X-Amz-Signature=ab12&x=1", "https://b.s3/x?X-Amz-Expires=9&X-Amz-Signature=***&x=1"),
        ("https://b/x?x-goog-signature=ab12", "https://b/x?x-goog-signature=***"),
        ("https://b.blob/x?sv=2024&sig=ab%2B12'", "https://b.blob/x?sv=2024&sig=***'"),
        ("file:///srv/store", "file:///srv/store"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("see https://host/a:b and mail me@host", "see https://host/a:b and mail me@host"),
    ],
)  # fmt: skip
def test_a_password_in_a_url_is_masked_and_all_else_kept(text: str, shown: str) -> None:
    assert masked(text) == shown
