"""What the balancer ends with when it could not start, for whoever started it: a shell, systemd, a script.

Given by the command line and by the master. Numbers only: load_balancer.py imports this before it is known
whether gunicorn is installed.
"""

from __future__ import annotations

import os

EX_FAILED = 1
EX_CONFIG = os.EX_CONFIG  # 78; deploy/load-balancer.service does not start it again after that
