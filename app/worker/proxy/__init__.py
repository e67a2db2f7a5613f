"""One request from its head to its access line: pick, attempt, retry, answer."""
