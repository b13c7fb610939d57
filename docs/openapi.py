"""Writes docs/openapi.json: `python -m docs.openapi`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from autowarmup.service.app import make_app
from autowarmup.service.settings import ServiceSettings

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        document = make_app(ServiceSettings(folder=Path(folder))).openapi()
    Path(__file__).with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
