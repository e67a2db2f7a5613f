"""The application inside the standard library's WSGI validator, for gunicorn to load."""

from __future__ import annotations

from wsgiref.validate import validator

import app

application = validator(app.application)
