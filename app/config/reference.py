"""The table of keys for editors and people: the schema, the documentation, a whole configuration.

config.schema.json and docs/configuration.md are what ``schema`` and ``docs`` give; app.config
prints both when it is run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from app.config.keys import OVERRIDES, ROOT
from app.config.model import Config
from app.config.sections import sections
from app.config.server_keys import SERVER
from app.config.types import Key, Object
from app.telemetry.redact import redactor

LINE_WIDTH = 100


# Neither a secret (too short) nor a header's value (not ASCII): what was printed cannot be loaded by mistake.
HIDDEN = "‹hidden›"


def describe(config: Config) -> str:
    """The effective configuration for people: pretty JSON, loadable again to an equal Config.

    But nothing secret is told, for what is printed ends up in logs: the secret of sticky sessions, the values
    of the checks' headers, and by their names (logging.redact) parameters of the checks' path and options of
    a user's own algorithm.
    """
    return pretty(ROOT.write(_without_secrets(config)), top=True) + "\n"


def _without_secrets(config: Config) -> Config:
    sticky, check, algorithm = config.sticky, config.health_check, config.algorithm
    if sticky is not None and sticky.secret is not None:
        shown = None if sticky.secret_file is not None else HIDDEN
        config = replace(config, sticky=replace(sticky, secret=shown))
    if check is not None:
        redact = redactor(config.logging.redact)
        path = redact(check.path) if redact is not None else check.path
        headers = tuple((name, HIDDEN) for name, _ in check.headers)
        config = replace(config, health_check=replace(check, path=path, headers=headers))
    if algorithm.is_custom:
        options = tuple(
            (name, HIDDEN if name.lower() in config.logging.redact else value)
            for name, value in algorithm.options
        )
        config = replace(config, algorithm=replace(algorithm, options=options))
    return config


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of config.json, for editors; config.schema.json is this."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Load balancer configuration",
        "description": "Generated from app/config/keys.py by `python -m app.config schema`.",
        # VS Code's own keywords; validators ignore them, as draft 2020-12 asks of unknown ones.
        "allowComments": True,
        "allowTrailingCommas": True,
        **ROOT.schema(),
    }


def pretty(value: Any, lead: str = "", top: bool = False) -> str:
    """JSON with each object or list on one line where that fits; ``lead`` comes before it."""
    line = json.dumps(value, ensure_ascii=False)
    nested = isinstance(value, (dict, list)) and value
    if not nested or (len(lead + line) < LINE_WIDTH and not top):
        return lead + line
    inner = lead[: len(lead) - len(lead.lstrip())] + "  "
    if isinstance(value, dict):
        parts = [pretty(item, f"{inner}{json.dumps(name)}: ") for name, item in value.items()]
    else:
        parts = [pretty(item, inner) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{lead}{opening}\n" + ",\n".join(parts) + f"\n{inner[2:]}{closing}"


_DOCS_HEAD = """\
<!-- Generated from app/config/keys.py by `python -m app.config docs`: change it there. -->
# Configuration

The load balancer reads `config.json` in its working directory, or the file that the environment
variable `LB_CONFIG` names. Every key has a default, so `{}` is a valid file.

The file is JSON in UTF-8 that may also hold `//` and `/* */` comments and trailing commas. Times
are in seconds, with fractions if wanted. Unknown keys, duplicate keys, and wrong types or values
are refused at start and at reload, all at once and each with its path
(`servers[2].weight: must be ≥ 1, got 0`); at start the exit status is then 78 and nothing runs.

A relative path in it (`tls.certificate`, `sticky.secret_file`, …) is relative to the folder of the file.

`python load_balancer.py check` does only that, and prints the configuration with every default
filled in, but nothing that may be secret: not `sticky.secret`, not the values of
`health_check.headers`. `check -q` prints problems only, and nothing where there is none.

Editors that know JSON Schema complete and check the file if it begins with
`"$schema": "./config.schema.json"`.
"""

_DOCS_SERVERS = """
`"http://127.0.0.1:8001"` alone means `{"url": "http://127.0.0.1:8001"}`. The certificate of an
https:// server is verified. A server can be listed once: `HTTP://Example.com:80/` and
`http://example.com` are the same.
"""

_DOCS_ENVIRONMENT = """
## Environment

These win over the file, and are checked like it.

| Variable | Wins over |
| --- | --- |
"""


def docs() -> str:
    """The reference for people; docs/configuration.md is this."""
    parts = [_DOCS_HEAD]
    for path, section in sections():
        name = path.removesuffix("[]")
        about = next((key.doc for key in ROOT.keys if key.name == name), "")
        parts.append(f"\n## `{name}`\n\n{about}\n" if name else "\n## Top level\n")
        if section is SERVER:
            parts.append(_DOCS_SERVERS)
        parts.append("\n| Key | Type and range | Default | What it does |\n")
        parts.append("| --- | --- | --- | --- |\n")
        parts += (_docs_row(key) for key in section.keys)
    parts.append(_DOCS_ENVIRONMENT)
    parts.append("| `LB_CONFIG` | the path of the file, `config.json` |\n")
    parts += (f"| `{variable}` | `{name}` |\n" for variable, name in OVERRIDES)
    return "".join(parts)


def _docs_row(key: Key) -> str:
    if key.required:
        default = "required"
    elif isinstance(key.type, Object):
        default = f"[see below](#{key.name})"
    elif key.default is None:
        default = "none"
    else:
        default = key.default_words or f"`{json.dumps(key.type.write(key.default))}`"
    examples = " ".join(f"`{json.dumps(item, ensure_ascii=False)}`" for item in key.examples)
    about = f"{key.doc} For example {examples}" if examples else key.doc
    return f"| `{key.name}` | {key.type.words()} | {default} | {about} |\n"


def main(arguments: Sequence[str]) -> int:
    outputs: dict[str, Callable[[], str]] = {
        "schema": lambda: json.dumps(schema(), indent=2, ensure_ascii=False) + "\n",
        "docs": docs,
    }
    if len(arguments) != 1 or arguments[0] not in outputs:
        sys.stderr.write("usage: python -m app.config {schema|docs}\n")
        return 2
    sys.stdout.buffer.write(outputs[arguments[0]]().encode())  # whatever the locale's encoding
    return 0
