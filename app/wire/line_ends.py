"""Whether the lines of a request head end as they must, where a count says that they may not.

Owns the reason for refusing one that does not: the parser takes bare LF and spare spaces, which the next
reader may read otherwise. Runs in workers, for heads that look odd only. Pure.
"""

from __future__ import annotations

from app.errors import BadRequest


def check_lines(head: bytes, count: int, request_line: int, limit: int) -> None:
    """Refuse a head with other line ends, or with spaces that the parser passed over.

    It must have ``count`` lines, the first of ``request_line`` bytes, which may be ``limit``. One empty line
    before it is what RFC 9112 §2.2 asks servers to ignore.
    """
    if head[:2] == b"\r\n":
        head = head[2:]
    if request_line > limit:  # the parser does not measure it behind an empty line
        raise BadRequest("request line too long", status=414, reason="target_too_long")
    if head.count(b"\n") != head.count(b"\r\n"):
        raise BadRequest("bare LF as line terminator", reason="bad_line_ending")
    if head.count(b"\r\n") != count or head.find(b"\r\n") != request_line:
        raise BadRequest("malformed request line", reason="bad_request_line")
