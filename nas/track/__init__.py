"""What is logged and where: TensorBoard event files and ``metrics.jsonl``, side by side in the run's folder."""

from nas.track.progress import Progress
from nas.track.tags import PROBABILITY
from nas.track.tracker import Tracker
from nas.track.writer import NullWriter, Writer

__all__ = ["PROBABILITY", "NullWriter", "Progress", "Tracker", "Writer"]
