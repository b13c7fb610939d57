"""Trains trials: recipe, trial, task; data, losses, averages, random states, processes; and what a trial records."""
