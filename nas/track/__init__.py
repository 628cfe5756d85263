"""What is logged and where: ``metrics.jsonl``, TensorBoard event files and whatever else, in the run's folder."""

from nas.track.progress import Progress
from nas.track.tags import PROBABILITY
from nas.track.tracker import Tracker
from nas.track.writers import NullWriter, Writer, Writers

__all__ = ["PROBABILITY", "NullWriter", "Progress", "Tracker", "Writer", "Writers"]
