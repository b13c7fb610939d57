"""A guard for real training runs: judges every optimizer step before the weights change."""
