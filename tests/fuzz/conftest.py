"""The targets and the replay package by their own names."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "wire"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
