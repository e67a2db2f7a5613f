"""What is told outside: the log, its lines and its way to stdout."""
