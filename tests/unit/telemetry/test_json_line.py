"""Any record becomes exactly one line of valid ASCII JSON within 4096 bytes."""

from __future__ import annotations

import enum
import json
import string
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.json_line import LINE_MAX_BYTES, encode, encode_slowly, timestamp

HEAD = {"timestamp": "2026-01-02T03:04:05.678Z", "level": "info", "logger": "t", "message": "m"}
# Surrogates too: st.text() leaves them out unless asked.
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=200)
WHOLE_TEXT = st.text(st.characters(codec="utf-8"), max_size=60)


def read(line: bytes) -> dict[str, Any]:
    """The line's object; asserts all that holds for every line whatever is in it."""
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) <= LINE_MAX_BYTES
    text = line.decode("ascii")
    assert len(text.splitlines()) == 1
    assert all(character >= " " for character in text[:-1])

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    value = json.loads(text, parse_constant=refuse)
    assert isinstance(value, dict)
    return value


@given(st.dictionaries(WHOLE_TEXT, WHOLE_TEXT, max_size=4))
def test_text_comes_back_as_it_went_in(fields: dict[str, str]) -> None:
    """Quotes, newlines, NUL, DEL, U+2028, emoji: every text that fits is read back unchanged."""
    record = {
        "timestamp": "t",
        "message": "m",
        "fields": fields,
        **{f"f{k}": v for k, v in fields.items()},
    }
    assert read(encode(record)) == record


@pytest.mark.parametrize(
    "text",
    [
        '"}\n{"logger":"access"',
        "\r\n",
        "\x00\x1b[31m\x7f",
        "\x85\x9b",
        "\u2028\u2029",
        "\ufeff",
        "\\ud800 \\n \\",
        "é ÿ 漢 \U0001f600",
        "</script>",
    ],
)
def test_text_cannot_break_the_line(text: str) -> None:
    """Known ways of forging a line or driving a terminal end up as plain escaped text."""
    assert read(encode({**HEAD, "user_agent": text})) == {**HEAD, "user_agent": text}


@given(
    st.dictionaries(
        ANY_TEXT,
        st.recursive(
            ANY_TEXT | st.none() | st.booleans() | st.integers() | st.floats() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
            max_leaves=20,
        ),
        max_size=8,
    )
)
def test_any_record_becomes_one_line(record: dict[str, Any]) -> None:
    """No value of any type makes it raise or write something that is not one line."""
    line = read(encode({**HEAD, **record}))
    assert set(HEAD) <= set(line)


@given(
    st.dictionaries(
        WHOLE_TEXT, WHOLE_TEXT | st.none() | st.integers(-(2**63), 2**64 - 1), max_size=6
    )
)
def test_the_slow_path_says_the_same(record: dict[str, Any]) -> None:
    """What the fast path can write, the slow path writes with the same meaning."""
    assert read(encode_slowly(record)) == read(encode(record))


def test_a_lone_surrogate_is_replaced() -> None:
    """Strict readers refuse a lone surrogate even escaped, so it becomes U+FFFD."""
    assert read(encode({"a": "x\ud800y", "k\udfff": 1})) == {"a": "x\ufffdy", "k\ufffd": 1}


def test_numbers_json_does_not_have_become_null() -> None:
    """NaN and the infinities are null on both paths."""
    odd = {"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 1.5}
    expected = {"a": None, "b": None, "c": None, "d": 1.5}
    assert read(encode(odd)) == expected
    assert read(encode_slowly(odd)) == expected


def test_foreign_values_become_text() -> None:
    """Exceptions, bytes, huge integers and objects whose str fails are written somehow."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    class Colour(enum.IntEnum):
        RED = 3

    loop: list[Any] = []
    loop.append(loop)
    line = read(
        encode(
            {
                "error": ValueError("no"),
                "raw": b"\xff",
                "huge": 2**64,
                "broken": Broken(),
                "colour": Colour.RED,
                "set": {1},
                7: "seven",
                "loop": loop,
            }
        )
    )
    assert line["error"] == "no"
    assert line["raw"] == "b'\\xff'"
    assert line["huge"] == "0x10000000000000000"
    assert line["broken"] == "<Broken>"
    assert (line["colour"], line["set"], line["7"]) == (3, [1], "seven")
    assert "[...]" in str(line["loop"])


def test_an_endless_integer_is_cut() -> None:
    """Past 4300 digits str(int) refuses; it is written in hexadecimal, as far as it fits."""
    assert read(encode({**HEAD, "huge": 10**9000}))["huge"].startswith("0x")


def test_a_long_value_is_cut_and_the_rest_stays() -> None:
    """All keys and all short values survive; the long text keeps its beginning and ends in …."""
    record = {**HEAD, "target": "/" + "a" * 10_000, "status": 200, "user_agent": "curl/8"}
    line = read(encode(record))
    assert list(line) == list(record)
    assert {**line, "target": ""} == {**record, "target": ""}
    assert line["target"].endswith("…")
    assert record["target"].startswith(line["target"][:-1])


def test_as_much_is_kept_as_fits() -> None:
    """One long value is cut to the limit, not far below it."""
    assert len(encode({**HEAD, "target": "a" * 100_000})) > LINE_MAX_BYTES - 16


def test_the_longest_is_cut_first() -> None:
    """A value that leaves room for the others is not cut for the sake of a longer one."""
    line = read(encode({**HEAD, "target": "t" * 50_000, "user_agent": "u" * 800}))
    assert line["user_agent"] == "u" * 800
    line = read(encode({**HEAD, "target": "t" * 50_000, "user_agent": "u" * 50_000}))
    assert min(len(line["target"]), len(line["user_agent"])) > 1000


@pytest.mark.parametrize("size", range(3990, 4110))
def test_the_limit_is_exact(size: int) -> None:
    """A record is cut if and only if it would not fit with its newline."""
    record = {**HEAD, "a": ""}
    record["a"] = "x" * (size - len(encode(record)))
    line = read(encode(record))
    assert (line == record) is (size <= LINE_MAX_BYTES)
    assert read(encode_slowly(record)) == line


@given(
    st.dictionaries(
        st.text(string.ascii_letters, min_size=1), ANY_TEXT.map(lambda t: t * 40), min_size=1
    )
)
def test_cutting_keeps_every_key(record: dict[str, str]) -> None:
    """However long the texts and however they are escaped, only their ends are lost."""
    line = read(encode({**HEAD, **record}))
    if len(record) < 20:
        assert list(line) == list({**HEAD, **record})


def test_a_traceback_keeps_its_end() -> None:
    """The last lines of a traceback name the error, so it is cut at the front."""
    text = "Traceback\n" + "  File x\n" * 2000 + "ValueError: the cause"
    line = read(encode({**HEAD, "exception": text}))
    assert line["exception"].startswith("…")
    assert line["exception"].endswith("ValueError: the cause")


def test_a_list_that_does_not_fit_stays_a_list() -> None:
    """A list too long for a line loses its last members; what is left is still a list."""
    line = read(encode({**HEAD, "problems": [f"problem {n}" for n in range(1000)]}))
    assert line["problems"][:2] == ["problem 0", "problem 1"]
    assert 10 < len(line["problems"]) < 1000


def test_a_short_list_in_a_long_line_is_whole() -> None:
    """What has to be cut is the long text beside it."""
    tried = [{"server": "127.0.0.1:8001", "status": None}] * 16
    line = read(encode({**HEAD, "target": "/" * 9000, "attempts": tried}))
    assert line["attempts"] == tried
    assert line["target"].endswith("…")


def test_an_object_that_does_not_fit_becomes_its_text() -> None:
    """An object too large for a line is cut as text."""
    line = read(encode({**HEAD, "facts": {f"fact {n}": n for n in range(1000)}}))
    assert line["facts"].startswith('{"fact 0":0,"fact 1":1')
    assert line["facts"].endswith("…")


def test_too_many_keys_lose_the_last_ones() -> None:
    """When even short texts do not fit, fields go from the end, never the first four."""
    line = read(encode({**{f"key_{n}": "x" * 20 for n in range(400)}, **HEAD}))
    assert set(HEAD) <= set(line)
    assert "key_0" in line
    assert "key_399" not in line


@given(st.integers(0, 4_000_000_000_000))
def test_timestamps_are_rfc_3339(milliseconds: int) -> None:
    """UTC with exactly three digits of a second, and the same instant when read back."""
    text = timestamp(milliseconds)
    assert len(text) == len("2026-01-02T03:04:05.678Z")
    then = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    assert round(then.timestamp() * 1000) == milliseconds
