"""Schedules written down for training frameworks: code that needs no autowarmup, or a framework's own configuration."""
