"""Which trials to run, how far, and what to conclude: decisions only, no clock, no file."""
