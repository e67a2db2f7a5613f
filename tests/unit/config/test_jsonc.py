"""Files with comments: what they may hold, and what is said of those that are no JSON."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import (
    ConfigError,
    load,
    parse,
    strip_comments,
)
from tests.unit.config.refusals import load_refusals


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1, 2] // end", [1, 2]),
        ("// start\n[1]", [1]),
        ("[1, /* a, ] */ 2,]", [1, 2]),
        ("[1, // one\n 2, // two\n]", [1, 2]),
        ('/**/{/***/"a"/**/:/* * / */1,/**/}/**/', {"a": 1}),
        ('["//", "/* */", ",]", "\\"//", "\\\\", "a,}"]',
         ["//", "/* */", ",]", '"//', "\\", "a,}"]),
        ('{"a": [{"b": 1,},], }', {"a": [{"b": 1}]}),
        ("[1,\r\n// x\r\n]\r\n", [1]),
        ("[// x\r1]", [1]),
    ],
)  # fmt: skip
def test_comments_and_trailing_commas(text: str, value: Any) -> None:
    """Comments and trailing commas go, and everything keeps its place."""
    stripped = strip_comments(text)
    assert json.loads(stripped) == value
    assert len(stripped) == len(text)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "is empty: write {} for the defaults"),
        (" \n\t", "is empty: write {} for the defaults"),
        ("// nothing\n/* at all */", "is empty: write {} for the defaults"),
        ('{"a": 1\n "b": 2}', 'line 2, column 2: expected "," or the closing bracket, found "'),
        ('{"a": [1, 2', 'line 1, column 12: expected "," or the closing bracket, found the end '
         "of the file"),
        ('{"port" 1}', 'line 1, column 9: expected ":" after the key, found 1'),
        ('{"port": }', "line 1, column 10: expected a value, found }"),
        ('{\n  "port": True}', "line 2, column 11: expected a value, found True"),
        ('{"port": 08}', 'line 1, column 11: expected "," or the closing bracket, found 8'),
        ("{'port': 1}", "line 1, column 2: expected a key in double quotes, found '"),
        ("{port: 1}", "line 1, column 2: expected a key in double quotes, found port"),
        ('{"a": 1,,}', "line 1, column 9: expected a key in double quotes, found ,"),
        ("{,}", "line 1, column 2: expected a key in double quotes, found ,"),
        ("[,]", "line 1, column 2: expected a value, found ,"),
        ("{} {}", "line 1, column 4: expected the end of the file, found {"),
        ("{}\u00a0", "line 1, column 3: expected the end of the file, found the character U+00A0"),
        ('{"a": "x\n"}', 'line 1, column 9: a string is not closed on its line: " is missing'),
        ('{"a": "x', 'line 1, column 7: this string is never closed: " is missing'),
        ('{"a": "C:\\x"}', "line 1, column 10: a string has a \\ that begins no escape: write "
         "\\\\ for the character itself"),
        ("{} /* x\n\n", "line 1, column 4: this comment is never closed: */ is missing"),
        ("{} / x", "line 1, column 4: expected the end of the file, found /"),
        ("[]", "must be an object, got a list"),
        ("null", "must be an object, got null"),
        ("[" * 100_000, "is nested too deeply"),
    ],
    ids=range(24),
)  # fmt: skip
def test_a_file_that_is_not_json(file: Path, text: str, where: str) -> None:
    """A syntax error names the file, the line and column, and what was expected there."""
    file.write_bytes(text.encode())
    assert load_refusals(file) == [f"{file}: {where}"]


@given(st.text())
def test_a_string_is_never_altered_by_stripping(text: str) -> None:
    """Whatever a string holds, the comment stripper leaves it as it is."""
    for ascii_only in (True, False):
        document = json.dumps([text, {text: text}], ensure_ascii=ascii_only)
        assert strip_comments(document) == document


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


junk = st.sampled_from(
    ["", " ", "\n", "// c\n", "/* c */", '// "\n', '/* " */', "/*,]*/", "//}\n", "/**/"]
)


def decorated(value: Any, draw: Any) -> str:
    """The value as JSON with junk between all lexemes and commas that trail."""
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(name)}{draw(junk)}:{draw(junk)}{decorated(item, draw)}"
            for name, item in value.items()
        ]
    elif isinstance(value, list):
        parts = [decorated(item, draw) for item in value]
    else:
        return json.dumps(value)
    trailing = "," if parts and draw(st.booleans()) else ""
    inside = "".join(f"{draw(junk)}{part}{draw(junk)}," for part in parts)[:-1]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}{inside}{trailing}{draw(junk)}{closing}"


@given(json_values, st.data())
def test_comments_anywhere_change_nothing(value: Any, data: st.DataObject) -> None:
    """JSON with comments between any two lexemes means what it means without them."""
    text = data.draw(junk) + decorated(value, data.draw) + data.draw(junk)
    assert json.loads(strip_comments(text)) == value


@given(st.text(alphabet='{}[]",:/*\\ \n1a'))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the reader fail in any other way than ConfigError."""
    with contextlib.suppress(ConfigError):
        parse(text)


def test_a_missing_file(file: Path) -> None:
    """The message names the file and what to do."""
    assert load_refusals(file) == [
        f"{file}: there is no such file: create it, or name another with LB_CONFIG"
    ]


def test_an_empty_file_name() -> None:
    """LB_CONFIG set to nothing is not taken for the current directory."""
    assert load_refusals("") == ["LB_CONFIG: must not be empty: name a file, or unset it"]


def test_a_directory(tmp_path: Path) -> None:
    """A directory is refused with the file that is probably meant."""
    assert load_refusals(tmp_path) == [
        f"{tmp_path}: is a directory: name the file in it, such as {tmp_path}/config.json"
    ]


def test_a_fifo(file: Path) -> None:
    """Nothing is read that could block the start for ever."""
    os.mkfifo(file)
    assert load_refusals(file) == [
        f"{file}: is not a regular file: it is read again at every reload"
    ]


def test_a_symbolic_link_is_followed(file: Path, tmp_path: Path) -> None:
    """Kubernetes mounts a ConfigMap as links to files."""
    (tmp_path / "real").write_text('{"port": 81}')
    file.symlink_to("real")
    assert load(str(file), {}).port == 81


def test_an_unreadable_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system's reason is told, with where to look."""
    file.write_text("{}")

    def denied(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(ConfigError) as caught:
        load(str(file), {})
    monkeypatch.undo()
    assert str(caught.value) == (
        f"{file}: cannot be read: Permission denied: check its owner and mode"
    )


def test_a_file_that_is_not_utf8(file: Path) -> None:
    """The first wrong byte is named with its line."""
    file.write_bytes(b"{\n  // \xe9\n}")
    assert load_refusals(file) == [
        f"{file}: line 2: byte 0xe9 is not UTF-8: save the file as UTF-8"
    ]


def test_a_byte_order_mark_is_accepted(file: Path) -> None:
    """Some editors of Windows write one."""
    file.write_bytes(b'\xef\xbb\xbf{"port": 81}')
    assert load(str(file), {}).port == 81
