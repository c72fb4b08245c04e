"""Files mapped into memory, as many as a round has updates: a map holds no file descriptor.

Python's own `mmap` keeps a duplicate of the descriptor for as long as the map lives (before 3.13, where `trackfd`
came), so that a round over a thousand updates met the usual limit of 1,024 open files. POSIX asks for the descriptor
only while the file is being mapped.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from connectors.storage.places import finding, open_inside

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED: Final = ctypes.c_void_p(-1).value


def map_file(root: Path, path: Path) -> NDArray[np.uint8]:
    """The whole file's bytes, read-only; it must not be empty. The map ends with the last array made on it.

    Raises: BlobMissing, ReferenceRefused, StoreUnavailable (also where the system allows no more maps).
    """
    with finding(path):
        file = open_inside(root, path)
        try:
            return map_descriptor(file)
        finally:
            os.close(file)


def map_descriptor(file: int) -> NDArray[np.uint8]:
    """The same of an open file, which may be closed at once. Raises: OSError."""
    return np.asarray(_Mapped(file, os.fstat(file).st_size))


class _Mapped:
    """What numpy asks for the memory, and keeps alive with every array on it."""

    def __init__(self, file: int, size: int) -> None:
        """Raises: OSError."""
        address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
        if address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, True),  # read-only
        }
        # At exit the system takes it all back; an array may outlive this module's names by then.
        weakref.finalize(self, _LIBC.munmap, address, size).atexit = False
