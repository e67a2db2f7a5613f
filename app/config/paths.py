"""Where the files are that a configuration names.

Owns the one rule: a relative path is relative to the folder of the configuration file, whatever the working
directory of who reads it. So ``check`` and ``run`` mean the same file. Pure: opens nothing.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from app.config.keys import ROOT
from app.config.model import Config
from app.config.types import Nullable, Object, Text, Type


def located(config: Config, folder: str) -> Config:
    """The configuration with every path absolute, as seen from ``folder``."""
    changed: dict[str, Any] = {}
    for key in ROOT.keys:
        value = getattr(config, key.name, None)
        if not isinstance(key.type, Object) or value is None:
            continue
        found = {
            inner.name: os.path.join(folder, getattr(value, inner.name))
            for inner in key.type.keys
            if is_path(inner.type) and getattr(value, inner.name) is not None
        }
        if found:
            changed[key.name] = replace(value, **found)
    return replace(config, **changed) if changed else config


def is_path(kind: Type) -> bool:
    """Whether a key takes the path of a file."""
    inner = kind.inner if isinstance(kind, Nullable) else kind
    return isinstance(inner, Text) and inner.is_path
