"""Reason phrases: every status that we answer with has its own, as the registry has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import app
from app.errors import ProxyError
from app.wire.status import ALLOWED_METHODS, STATUS_TEXT

# RFC 9110 has new names for these; Python has them since 3.13.
RENAMED = {413: "Content Too Large", 414: "URI Too Long"}
NEVER_SENT = {499}  # the client has gone: it is in the log alone


def errors(base: type[ProxyError] = ProxyError) -> Iterator[type[ProxyError]]:
    yield base
    for one in base.__subclasses__():
        yield from errors(one)


def test_every_error_has_a_phrase() -> None:
    """One without would be a failure while a failure is told."""
    statuses = {one.status for one in errors()}
    assert len(statuses) > 5
    assert statuses - NEVER_SENT <= STATUS_TEXT.keys()


def test_every_finer_status_has_one_too() -> None:
    """Those that are given with an error where it is raised."""
    text = "".join(path.read_text("utf-8") for path in Path(app.__path__[0]).rglob("*.py"))
    given = {int(status) for status in re.findall(r"\bstatus=([1-5][0-9][0-9])\b", text)}
    assert {414, 431} <= given
    assert given <= STATUS_TEXT.keys()


def test_phrases_are_those_of_the_registry() -> None:
    for status, phrase in STATUS_TEXT.items():
        assert phrase == RENAMED.get(status, HTTPStatus(status).phrase)


def test_a_405_names_neither_tunnel_nor_trace() -> None:
    """They are never forwarded."""
    allowed = ALLOWED_METHODS.split(b", ")
    assert b"GET" in allowed
    assert not {b"CONNECT", b"TRACE"} & set(allowed)
