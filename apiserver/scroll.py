"""Scroll ids without memory: the state of a scroll is in the id, signed.

They stay valid over restarts and cost nothing while nobody scrolls. A changed or foreign id is refused with 400/1104.

    scroll_id = ids.pack({"offset": 500, "query": fingerprint})
    state = ids.unpack(scroll_id)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any

from . import errors

_SIGNATURE_BYTES = 16


class ScrollIds:
    """Signs and reads scroll ids."""

    def __init__(self) -> None:
        self._key = b""

    def open(self, secret: str) -> None:
        """Begin to sign, with a key derived from the server's secret."""
        self._key = hashlib.sha256(f"scroll:{secret}".encode()).digest()

    def pack(self, state: dict[str, Any]) -> str:
        """An opaque text that holds the state."""
        body = json.dumps(state, separators=(",", ":"), sort_keys=True).encode()
        return base64.urlsafe_b64encode(self._sign(body) + body).decode()

    def unpack(self, scroll_id: str) -> dict[str, Any]:
        """The state of an id that we made."""
        try:
            raw = base64.urlsafe_b64decode(scroll_id.encode())
        except (binascii.Error, ValueError):
            raise errors.INVALID_SCROLL_ID(scroll_id=scroll_id) from None
        signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(body)):
            raise errors.INVALID_SCROLL_ID(scroll_id=scroll_id)
        state: dict[str, Any] = json.loads(body)
        return state

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:_SIGNATURE_BYTES]


def fingerprint(query: dict[str, Any]) -> str:
    """A short hash of a query, to notice a scroll id that is used with another one."""
    text = json.dumps(query, separators=(",", ":"), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
