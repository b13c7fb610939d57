"""MLflow, as a mirror of the study's store. Importing this package doesn't import MLflow."""

from autowarmup.tracking.delivery import Delivery
from autowarmup.tracking.mirror import Mirror, sync
from autowarmup.tracking.uri import check_uri, default_uri, tracking_uri

__all__ = ["Delivery", "Mirror", "check_uri", "default_uri", "sync", "tracking_uri"]
