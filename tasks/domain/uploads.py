"""URLs for clients that have no credentials for the store."""

from __future__ import annotations

from typing import Final

from connectors.errors import CanNotSign
from connectors.records import BlobRef
from fedqueue.messages import SignUpload, UploadView
from tasks.domain.errors import NoSignedUrls, UploadTooLarge
from tasks.hub import Hub

# Long enough for the slowest upload to begin; what has begun may end later.
SIGNED_SECONDS: Final = 3600.0


def sign_upload(hub: Hub, message: SignUpload) -> UploadView:
    """Where to put model data. Raises: NoSignedUrls, UploadTooLarge."""
    limit = int(hub.settings.max_update_bytes)
    if message.size_bytes is not None and message.size_bytes > limit:
        raise UploadTooLarge(f"{message.size_bytes} bytes, the limit is {limit}")
    try:
        url, uri = hub.model_data.sign_upload(SIGNED_SECONDS)
    except CanNotSign as error:
        raise NoSignedUrls(str(error)) from error
    return UploadView(url=url, uri=uri)


def sign_download(hub: Hub, ref: BlobRef) -> str:
    """A URL to read the blob by. Raises: NoSignedUrls."""
    try:
        return hub.model_data.sign_download(ref, SIGNED_SECONDS)
    except CanNotSign as error:
        raise NoSignedUrls(str(error), field="include_download_url") from error
