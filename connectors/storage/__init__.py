"""Model data in stores: content-addressed bytes, read and written as streams of tensors."""

from connectors.storage.file_connector import FileModelDataConnector
from connectors.storage.limits import Limits

__all__ = ["FileModelDataConnector", "Limits"]
