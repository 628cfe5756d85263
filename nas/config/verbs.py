"""The settings of each command: the dataclass that its primary config is checked against."""

from __future__ import annotations

from typing import Any

from nas import settings

# Groups are left open: OmegaConf would not let another choice take the place of the dataclass's default.
VERBS: dict[str, Any] = {
    "train": settings.TrainRunSettings(**dict.fromkeys(settings.GROUPS, settings.MISSING)),
    "bench": settings.BenchSettings(),
    "score": settings.ScoreSettings(space=settings.MISSING, data=settings.MISSING),
    "search": settings.SearchRunSettings(),
    "rank": settings.RankRunSettings(),
    "export": settings.ExportSettings(),
}
