"""``python -m app.config schema`` and ``python -m app.config docs`` print the generated files."""

from __future__ import annotations

import sys

from app.config.reference import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
