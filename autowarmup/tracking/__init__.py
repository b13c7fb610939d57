"""MLflow, as a mirror of the study's store. Importing this package doesn't import MLflow."""

from autowarmup.tracking.mirror import Mirror, mirrored, stored_uri, sync
from autowarmup.tracking.page import PageServer
from autowarmup.tracking.uri import check_uri, default_uri, page_address, recalled_uri, remembered_uri, tracking_uri

__all__ = [
    "Mirror",
    "PageServer",
    "check_uri",
    "default_uri",
    "mirrored",
    "page_address",
    "recalled_uri",
    "remembered_uri",
    "stored_uri",
    "sync",
    "tracking_uri",
]
