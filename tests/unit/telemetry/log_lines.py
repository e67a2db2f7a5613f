"""What the tests of the log share: an access record, lines read back and held against the schema."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema

from app.telemetry.access_log import AccessLog
from app.telemetry.json_line import LINE_MAX_BYTES
from app.telemetry.sink import Sink

ROOT = Path(__file__).parents[3]


SCHEMA = json.loads((ROOT / "docs" / "log-schema.json").read_text("utf-8"))


VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


ACCESS: dict[str, Any] = {
    "request_id": "01JD7ZK3V9Q4N8M2X5T6W7Y8A1",
    "client_ip": "203.0.113.7",
    "method": "GET",
    "host": "shop.example.com",
    "target": "/api/v1/items?page=2",
    "protocol": "HTTP/1.1",
    "status": 200,
    "backend": "127.0.0.1:8001",
    "attempts": [
        {
            "server": "127.0.0.1:8001",
            "connect_ms": 0.2,
            "first_byte_ms": 1.5,
            "status": 200,
            "reason": None,
        }
    ],
    "bytes_in": 0,
    "bytes_out": 1534,
    "duration_ms": 3.412,
    "connect_ms": None,
    "first_byte_ms": 3.1,
    "reason": None,
    "user_agent": "curl/8.9.1",
}


def parse(data: bytes) -> list[dict[str, Any]]:
    """All lines, each checked against the published schema."""
    assert data == b"" or data.endswith(b"\n")
    records = [json.loads(line) for line in data.split(b"\n")[:-1]]
    for record in records:
        VALIDATOR.validate(record)
        assert list(record)[:4] == ["timestamp", "level", "logger", "message"]
    return records


class Lines:
    """A file as this process's stdout."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self.sink = Sink(self._fd)

    def take(self) -> list[dict[str, Any]]:
        """What was written since the last time, without flushing first."""
        return parse(os.read(self._fd, 1 << 24) if self._rewind() else b"")

    def close(self) -> None:
        os.close(self._fd)

    def _rewind(self) -> bool:
        end = os.lseek(self._fd, 0, os.SEEK_CUR)
        start, self._seen = getattr(self, "_seen", 0), end
        os.lseek(self._fd, start, os.SEEK_SET)
        return end > start


def access_line(record: dict[str, Any]) -> dict[str, Any]:
    """One access record through an AccessLog, read back."""
    written: list[bytes] = []

    class Catch:
        def write(self, line: bytes) -> None:
            written.append(line)

    AccessLog(Catch()).write(record)  # type: ignore[arg-type]
    (line,) = written
    assert len(line) <= LINE_MAX_BYTES
    assert line.isascii()
    (parsed,) = parse(line)
    return parsed
