"""Carries out a search's decisions, and keeps everything in the study's folder."""
