"""The methods of the comparison, by name."""

from __future__ import annotations

from benchmarks.search.one_shot import ONE_SHOT, ONE_SHOT_ABOUT
from benchmarks.search.ours import autowarmup
from benchmarks.search.peers import ABOUT as PEERS_ABOUT
from benchmarks.search.peers import PEERS, SLOW
from benchmarks.search.play import Method

OURS = "autowarmup"
METHODS: dict[str, Method] = {OURS: autowarmup} | PEERS | ONE_SHOT
ABOUT = {OURS: f"**{OURS}**"} | PEERS_ABOUT | ONE_SHOT_ABOUT
"""What each is, as the tables name it."""
DEFAULT = tuple(method for method in METHODS if method not in SLOW)
