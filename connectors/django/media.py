"""Where the deployment's files are: FMA's rows name them relative to a folder, or to a folder of a bucket."""

from __future__ import annotations

from pathlib import Path

from connectors.storage.places import as_root
from fedqueue.blobs import path_of
from fedqueue.buckets import check_bucket_url, is_bucket, key_in

Media = Path | str
"""A folder (MEDIA_ROOT), or the URL of a bucket's folder (django-storages' bucket and location)."""


def as_media(place: str | Path) -> Media:
    """Of a path, a `file://` URL or a bucket's URL. Raises: ValueError."""
    return check_bucket_url(place) if isinstance(place, str) and is_bucket(place) else as_root(place)


def uri_in(media: Media, path: str) -> str:
    """Where the file lies that a row names. What leads out of there is refused by whoever opens it."""
    return f"{media}/{path}" if isinstance(media, str) else (media / path).as_uri()


def path_in(media: Media, uri: str) -> str:
    """What a row calls the file. Raises: ValueError if it lies elsewhere."""
    if not isinstance(media, str):
        return path_of(uri).relative_to(media).as_posix()
    key = key_in(media, uri)
    if key is None:
        raise ValueError(f"{uri!r} is no object under {media}")
    return key
