"""Where a run's curves go: ``metrics.jsonl`` always, and what ``track.writers`` names; one file a writer."""

from nas.track.writers.base import Writer
from nas.track.writers.fan import NullWriter, Writers

__all__ = ["NullWriter", "Writer", "Writers"]
