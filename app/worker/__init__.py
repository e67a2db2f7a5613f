"""Processes that serve requests. Empty but for this: the master imports app.worker.process for its class."""
