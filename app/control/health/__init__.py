"""Active checks: how a result is got (probe), what it means (verdicts), when (checker, intervals)."""
