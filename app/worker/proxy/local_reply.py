"""The bodies of our own answers: what and why by name, nothing of the inside. Pure."""

from __future__ import annotations

import orjson

from app.errors import ProxyError
from app.wire.status import STATUS_TEXT


def server_header(setting: str) -> tuple[bytes, ...] | None:
    """The Server field of every response as flat pieces, () for never one; None where a backend's passes."""
    if setting == "pass":
        return None
    return () if setting == "none" else (b"Server", b": ", setting.encode("ascii"), b"\r\n")


def prefers_text(accept: bytes | None) -> bool:
    """JSON unless the client names text and not JSON: whoever reads our errors is mostly a program."""
    return accept is not None and b"text/" in accept and b"json" not in accept


def error_body(error: ProxyError, request_id: str, is_text: bool) -> bytes:
    """What a client reads of an error, with the id that leads to its line in the log."""
    text = STATUS_TEXT.get(error.status, "Error")
    if is_text:
        return f"{error.status} {text}\nreason: {error.reason}\nrequest id: {request_id}\n".encode()
    return (
        orjson.dumps(
            {
                "status": error.status,
                "error": text,
                "reason": error.reason,
                "request_id": request_id,
            }
        )
        + b"\n"
    )
