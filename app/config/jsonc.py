"""The file's text: JSON that may hold comments and trailing commas.

Owns reading it and saying where it is no such text, by line and column. Objects become tuples of pairs (lists
stay lists), so that a duplicate key survives until the reader that knows its path. Only ``read_text`` opens a
file.
"""

from __future__ import annotations

import json
import os
import re
import stat
from typing import Any

from app.config.problems import refuse

DEFAULT_FILE = "config.json"

_LEXEME = re.compile(
    r'"(?:[^"\\]+|\\.)*"?|//[^\r\n]*|/\*.*?\*/|/\*|[^\s",/}\]]+|[,}\]/\\]|\s+', re.DOTALL
)


def strip_comments(text: str) -> str:
    """Blank out comments and trailing commas; every other character keeps its place."""
    kept: list[str] = []
    before = "["  # the last thing that was neither space nor comment
    comma = -1  # where in ``kept`` a comma waits to be found trailing or not
    for match in _LEXEME.finditer(text):
        lexeme = match[0]
        if lexeme == "/*":
            raise json.JSONDecodeError("Unterminated comment starting at", text, match.start())
        if lexeme.startswith(("//", "/*")):
            kept.append(re.sub(r"[^\r\n]", " ", lexeme))
            continue
        kept.append(lexeme)
        if lexeme.isspace():
            continue
        if lexeme in "}]" and comma >= 0:
            kept[comma] = " "
        # "[,]" and "[1,,]" have no trailing comma: there is no value in front of it.
        comma = len(kept) - 1 if lexeme == "," and before[-1] not in "[{,:" else -1
        before = lexeme
    return "".join(kept)


def read_text(path: str, otherwise: str = "name another with LB_CONFIG") -> str:
    """The text of a file. ConfigError if it cannot be read; ``otherwise``: a remedy if there is none."""
    if not path:
        refuse("must not be empty: name a file, or unset it")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would block the start for ever
            if os.path.isdir(path):
                inside = os.path.join(path, DEFAULT_FILE)
                refuse(f"is a directory: name the file in it, such as {inside}")
            refuse("is not a regular file: it is read again at every reload")
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        refuse(f"there is no such file: create it, or {otherwise}")
    except OSError as error:
        refuse(f"cannot be read: {error.strerror}: check its owner and mode")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        refuse(f"line {line}: byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8")


def parse_json(text: str) -> Any:
    """The value of a text that may have comments and trailing commas. ConfigError if it is no JSON."""
    try:
        bare = strip_comments(text)
        if not bare.strip():
            refuse("is empty: write {} for the defaults")
        return json.loads(bare, object_pairs_hook=tuple, parse_int=_parse_int)
    except json.JSONDecodeError as error:
        refuse(f"line {error.lineno}, column {error.colno}: {_syntax_words(error)}")
    except RecursionError:
        refuse("is nested too deeply")


def _parse_int(digits: str) -> int:
    """Longer ones are out of every range anyway, and int() refuses thousands of digits."""
    return int(digits[:40])


_SYNTAX_WORDS = {
    "Unterminated comment": "this comment is never closed: */ is missing",
    "Unterminated string": 'this string is never closed: " is missing',
    "Invalid control character": 'a string is not closed on its line: " is missing',
    "Invalid \\": "a string has a \\ that begins no escape: write \\\\ for the character itself",
    "Expecting property name": "expected a key in double quotes, found {found}",
    "Expecting ':'": 'expected ":" after the key, found {found}',
    "Expecting ','": 'expected "," or the closing bracket, found {found}',
    "Expecting value": "expected a value, found {found}",
    "Extra data": "expected the end of the file, found {found}",
}


# Of other languages, where JSON wants true, false, null or a number.
_TELLING_WORDS = frozenset(
    (
        "True",
        "False",
        "None",
        "TRUE",
        "FALSE",
        "NULL",
        "Null",
        "undefined",
        "yes",
        "no",
        "on",
        "off",
    )
)


def _syntax_words(error: json.JSONDecodeError) -> str:
    rest = re.match(r"([\w.+-]+)(\s*:)?|.", error.doc[error.pos :])
    found = rest[1] or rest[0] if rest else "the end of the file"
    is_key = rest is not None and rest[2] is not None
    if rest and len(found) > 1 and found not in _TELLING_WORDS and not is_key:
        found = (
            "a word without quotes"  # which may be a secret, and what is printed ends up in logs
        )
    if not found.isprintable() or found.isspace():
        found = f"the character U+{ord(found[0]):04X}"
    for start, words in _SYNTAX_WORDS.items():
        if error.msg.startswith(start):
            return words.format(found=found)
    return error.msg
