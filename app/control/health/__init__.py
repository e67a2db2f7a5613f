"""Health of the backends: what a result means (verdicts), how it is got (probe), when (checker)."""
