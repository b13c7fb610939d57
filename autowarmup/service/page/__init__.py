"""The page: the service's studies in a browser."""
