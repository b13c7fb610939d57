"""A warm-up that adapts while the run trains: for a single run, without a study."""
