"""The published form: the configuration as the master writes it into the shared table for all processes.

Owns the form and its number. Whoever reads it may be of another release than the master that wrote it (USR2:
workers of the old one and of the new one share a table), so this reader takes what it knows and leaves the
rest, while the reader of the file that a person wrote (app.config.parse) refuses what it does not know.
"""

from __future__ import annotations

import json
from typing import Any

from app.config.entries import AlgorithmEntry, ServerEntry
from app.config.keys import ROOT
from app.config.model import Config
from app.config.problems import ConfigError, Problem
from app.config.types import ListOf, Object, Type
from app.policies import POLICIES

# Of the envelope and of what a key means. A key more does not change it: who does not know it leaves it out,
# and who misses it takes its default. To be raised where that would be wrong.
FORM = 1


def to_json(config: Config) -> bytes:
    """The effective configuration with every default filled in."""
    envelope = {"form": FORM, "config": ROOT.write(config)}
    return json.dumps(envelope, separators=(",", ":")).encode()


def from_json(data: bytes) -> Config:
    """What ``to_json`` wrote, in this release or another. ConfigError if it cannot be read here."""
    try:
        envelope = dict(json.loads(data, object_pairs_hook=tuple))
    except (ValueError, TypeError):
        raise ConfigError([Problem("form", "is not a published configuration")]) from None
    form = envelope.get("form")
    if type(form) is not int or form > FORM:
        raise ConfigError([Problem("form", f"is {form}, not one up to {FORM}")])
    config: Config = ROOT.read(_known(ROOT, envelope.get("config")))
    return config


def _known(kind: Type, value: Any) -> Any:
    """The part of a value for which this release has keys."""
    if isinstance(kind, ServerEntry):
        return _known(kind.members, value)
    if isinstance(kind, ListOf) and isinstance(value, list):
        return [_known(kind.item, item) for item in value]
    if isinstance(kind, Object) and isinstance(value, tuple):
        types = {key.name: key.type for key in kind.keys}
        return tuple((name, _known(types[name], one)) for name, one in value if name in types)
    if isinstance(kind, AlgorithmEntry) and isinstance(value, tuple):
        return _known_options(value)
    return value


def _known_options(members: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """Of a policy of ours; what a user's class takes is known to that class alone."""
    name = dict(members).get("name")
    definition = POLICIES.get(name) if isinstance(name, str) else None
    if definition is None:
        return members
    names = {"name", *(option.name for option in definition.options)}
    if "key" in definition.reads:
        names.add("hash_on")
    return tuple(member for member in members if member[0] in names)
