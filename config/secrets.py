"""Passwords and signatures in URLs, kept out of everything that people or logs see."""

from __future__ import annotations

import re
from typing import Final

MASK: Final = "***"

# Everything between the user's colon and the last @ before the path: a password may itself hold an @.
_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<user>[^\s:/?#@]*):(?P<password>[^\s/?#\"']+)@")
_QUERY = re.compile(
    r"(?P<name>[?&;](?:password|sslpassword|secret|token|credential|sig|x-(?:amz|goog)-(?:signature|security-token))=)"
    r"[^\s&;#\"']+",
    re.I,
)
# As libpq writes down what it connects by.
_WORD = re.compile(r"(?P<name>\b(?:ssl)?password=)[^\s&;,)\"']+", re.I)


def masked(text: str) -> str:
    """`text` with the password of every URL in it replaced: `redis://:secret@host/0` → `redis://:***@host/0`."""
    if "assword=" in text or "ASSWORD=" in text:
        text = _WORD.sub(rf"\g<name>{MASK}", text)
    if "://" not in text:
        return text
    text = _USERINFO.sub(rf"\g<scheme>\g<user>:{MASK}@", text)
    return _QUERY.sub(rf"\g<name>{MASK}", text)
