"""What is logged and where: TensorBoard event files and ``metrics.jsonl``, side by side in the run's folder."""

from nas.track.picture import draw_supernet
from nas.track.progress import Progress
from nas.track.silent import NoWriter
from nas.track.tags import PROBABILITY
from nas.track.tracker import Tracker
from nas.track.writer import Writer

__all__ = ["PROBABILITY", "NoWriter", "Progress", "Tracker", "Writer", "draw_supernet"]
