"""Where trials run. Each engine is one class behind the interface :class:`autowarmup.engines.base.Engine`."""
