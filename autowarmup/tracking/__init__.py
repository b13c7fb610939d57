"""MLflow, as a mirror of the study's store. Importing this package doesn't import MLflow."""

from autowarmup.tracking.mirror import Mirror, mirrored, sync
from autowarmup.tracking.uri import check_uri, default_uri, tracking_uri

__all__ = ["Mirror", "check_uri", "default_uri", "mirrored", "sync", "tracking_uri"]
