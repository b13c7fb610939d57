"""Where trials run: one file an engine, behind one small interface (:class:`autowarmup.engines.base.Engine`)."""
