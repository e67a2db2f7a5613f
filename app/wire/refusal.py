"""A request head that the parser has refused: what the client is told, or what is read all the same.

Owns the status and the reason, the same for both parsers and however the bytes arrived, and the second look
at a head whose only fault may be that it says its Content-Type twice. Pure.
"""

from __future__ import annotations

import re
from typing import Any, Final

from app.errors import BadRequest
from app.wire import python_parser
from app.wire.fields import TOKEN
from app.wire.parser import InvalidRequestMethod, LimitRequestHeaders, LimitRequestLine

_REQUEST_LINE: Final = re.compile(rb"%b [\x21-\x7e]+ HTTP/(.*)" % TOKEN.pattern)


def read_again(
    error: Exception, data: bytes, max_line: int, max_fields: int, max_field: int
) -> dict[str, Any]:
    """The parts of a head that was refused for its second Content-Type: the reader says whether it differs.

    Raises BadRequest for any other fault, and where there is one besides.
    """
    if "Duplicate Content-Type" not in str(error):
        raise _refusal(error, data, max_fields) from None
    try:
        return python_parser.parse_request(data, 0, max_line, max_fields, max_field, True, True)
    except python_parser.ParseError as other:
        raise _refusal(other, data, max_fields) from None


def too_large() -> BadRequest:
    """The answer to a head with more or larger fields than may be."""
    return BadRequest("head too large", status=431, reason="head_too_large")


def _refusal(error: Exception, data: bytes, max_fields: int) -> BadRequest:
    """The status and reason for what the parser refused, the same however the bytes arrived."""
    detail = str(error)
    if isinstance(error, (LimitRequestLine, python_parser.LimitRequestLine)):
        return BadRequest(detail, status=414, reason="target_too_long")
    if isinstance(error, (LimitRequestHeaders, python_parser.LimitRequestHeaders)):
        return too_large()
    start = 2 if data[:2] == b"\r\n" else 0
    line, _, rest = data[start:].partition(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line.removesuffix(b"\r"))
    if match is not None and match[1] not in (b"1.0", b"1.1"):
        if re.fullmatch(rb"[0-9](\.[0-9]?)?", match[1]):
            return BadRequest(detail, status=505, reason="version_not_supported")
        return BadRequest(detail, reason="bad_request_line")
    if isinstance(error, InvalidRequestMethod):
        return BadRequest(detail, reason="bad_method")
    if match is None:
        return BadRequest(detail, reason="bad_request_line")
    if "asterisk" in detail or "authority" in detail:
        return BadRequest(detail, reason="bad_target")
    if rest.count(b"\n") > max_fields + 1:
        return too_large()
    if "Unsupported Transfer-Encoding" in detail:
        return BadRequest(detail, status=501, reason="unknown_coding")
    if "Host" in detail:
        return BadRequest(detail, reason="bad_host")
    framing = ("Content-Length", "Transfer-Encoding", "hunked")
    if any(word in detail for word in framing):
        return BadRequest(detail, reason="bad_framing")
    return BadRequest(detail, reason="bad_header")
