"""``hydra/sweeper=nas_optuna``: a sweep that looks for good settings with Optuna, and plans its runs as it goes.

Hydra takes plugins from the package ``hydra_plugins`` alone, and every Hydra program of an environment imports what
lies there: so this file imports what takes time where it is used. Its annotations are no text, because a dataclass
looks such text up in ``sys.modules``, where Hydra puts the file only afterwards.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from nas.cli.rows import Planned

STORAGE = "optuna.log"
"""In the folder of a sweep: the study, as optuna-dashboard takes it."""


@dataclass
class OptunaSweeperConf:
    """Settings ``hydra.sweeper.*``.

    Attributes:
        n_trials: runs in all, those of before a stop included.
        n_jobs: runs started at a time; None for as many as ``hydra.launcher.n_jobs``, where the launcher has that.
        direction: of the first figure in the sweep's table: maximize or minimize.
        seed: of the proposals; None for that of the runs.
        params: what to search, as on the command line.
    """

    _target_: str = "hydra_plugins.nas_optuna.OptunaSweeper"
    n_trials: int = 20
    n_jobs: int | None = None
    direction: str = "maximize"
    seed: int | None = None
    params: dict[str, str] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="nas_optuna", node=OptunaSweeperConf, provider="gated-nas")


class OptunaSweeper(Sweeper):
    """Proposes runs with Optuna's TPE and has Hydra's launcher start them, ``n_jobs`` at a time.

    A proposal is a function of the seed, its number and the runs that ended before its batch: started again after a
    stop, the command proposes the interrupted runs again, which go on, and reads those before them from the study.
    """

    def __init__(self, **settings: Any) -> None:
        self._how = OptunaSweeperConf(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take over what Hydra has made of the command line."""
        self._loader, self._config = hydra_context.config_loader, config
        how: dict[str, Any] = {"hydra_context": hydra_context, "task_function": task_function, "config": config}
        self._launcher = Plugins.instance().instantiate_launcher(**how)

    def sweep(self, arguments: list[str]) -> None:
        """Start runs until there are enough, or one was stopped.

        Raises:
            SettingError: nothing is to be searched, or a setting of the sweeper is out of range.
            CheckpointError: the study in the sweep's folder was begun with other words, or is being worked on.
        """
        from nas.errors import require
        from nas.files import only_one

        words = [*(f"{key}={value}" for key, value in (self._how.params or {}).items()), *arguments]
        parsed = OverridesParser.create(self._loader).parse_overrides(words)
        fixed = [word for word in parsed if not word.is_sweep_override()]
        self._fixed = [f"{word.get_key_element()}={word.get_value_element_as_str()}" for word in fixed]
        self._searched = {word.get_key_element(): _distribution(word) for word in parsed if word.is_sweep_override()}
        rule, remedy = "has nothing to search", "write for example optimizer.lr='interval(0.01,1)' or gate=uniform,fair"
        require(bool(self._searched), "hydra/sweeper", "nas_optuna", rule, remedy)
        direction, known = self._how.direction, ("maximize", "minimize")
        require(direction in known, "hydra.sweeper.direction", direction, "is unknown", f"write {' or '.join(known)}")
        for name, number in (("n_trials", self._how.n_trials), ("n_jobs", self._how.n_jobs or 1)):
            require(number > 0, f"hydra.sweeper.{name}", number, "must be positive", f"write for example {name}=20")
        self._check_words()
        folder = Path(self._config.hydra.sweep.dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        with only_one(folder):
            self._search(self._study(folder, dict(word.partition("=")[::2] for word in words if word[:4] != "run=")))

    def _check_words(self) -> None:
        """Compose each value, or both ends, beside the first of the others: a wrong word is refused before any run."""
        ends = {key: d.choices if hasattr(d, "choices") else (d.low, d.high) for key, d in self._searched.items()}
        first = {key: values[0] for key, values in ends.items()}
        for key, values in ends.items():
            for value in values:
                self._loader.load_sweep_config(self._config, self._words({**first, key: value}))

    def _study(self, folder: Path, words: dict[str, str]) -> "Study":
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        from nas.errors import CheckpointError
        from nas.settings.plain import differences

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        path, words["hydra.sweeper.direction"] = str(folder / STORAGE), self._how.direction
        storage = optuna.storages.JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path)))
        name = next((begun.study_name for begun in storage.get_all_studies()), folder.name)
        how: dict[str, Any] = {"direction": self._how.direction, "load_if_exists": True}
        study = optuna.create_study(storage=storage, study_name=name, **how)
        if "words" not in study.user_attrs:
            study.set_user_attr("words", words)
        if changed := differences(study.user_attrs["words"], words):
            remedy = "take another run=NAME, or the settings it was begun with"
            raise CheckpointError("sweep", folder, f"was begun with other settings ({'; '.join(changed)})", remedy)
        return study

    def _search(self, study: "Study") -> None:
        from optuna.trial import TrialState, create_trial

        from nas.cli.rows import read_row
        from nas.cli.sweep import PLAN

        before = self._planned(study.trials)
        known = {run.folder: trial.value for run, trial in zip(before, study.trials, strict=True)}
        PLAN.runs = list({run.folder: run for run in before}.values())
        PLAN.watch.ended, PLAN.watch.total = len(before), self._how.n_trials
        while self._note_best(known) and (batch := self._proposals(study)):
            runs = self._planned(batch)
            new = list({run.folder: run for run in runs if run.folder not in known}.values())
            PLAN.watch.ended += len(runs) - len(new)  # TPE may propose what it knows
            PLAN.watch.add(new)
            PLAN.runs += new
            found = self._launcher.launch([run.overrides for run in new], initial_job_idx=len(known)) if new else []
            PLAN.watch.look()
            if any(read_row(run)["state"] == "unfinished" for run in new):
                return  # a signal has stopped them: the next time the batch is proposed again
            known |= {run.folder: result.return_value for run, result in zip(new, found, strict=True)}
            for trial, run in zip(batch, runs, strict=True):
                value, params, ranges = known[run.folder], trial.params, trial.distributions
                state = TrialState.FAIL if value is None else TrialState.COMPLETE
                study.add_trial(create_trial(state=state, value=value, params=params, distributions=ranges))

    def _proposals(self, study: "Study") -> list["FrozenTrial"]:
        """The next batch, asked for in memory: the study holds ended runs alone, each written in one piece."""
        from optuna import create_study
        from optuna.samplers import TPESampler

        from nas.seeds import derive

        jobs = self._how.n_jobs or OmegaConf.select(self._config, "hydra.launcher.n_jobs") or 1
        jobs = jobs if jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + jobs)  # as joblib counts
        seed = OmegaConf.select(self._config, "seed", default=0) if self._how.seed is None else self._how.seed
        asked, first = create_study(directions=study.directions), len(study.trials)
        asked.add_trials(study.trials)
        for number in range(first, min(first + jobs, self._how.n_trials)):
            asked.sampler = TPESampler(
                seed=derive(seed, "sweep", number) % 2**32, multivariate=True, constant_liar=True
            )
            asked.ask(self._searched)
        return asked.trials[first:]

    def _note_best(self, known: dict[str, float | None]) -> bool:
        from nas.cli.rows import first_said, read_row
        from nas.cli.sweep import PLAN

        values = {folder: value for folder, value in known.items() if value is not None}
        if values:
            best = (max if self._how.direction == "maximize" else min)(values, key=lambda folder: values[folder])
            run = next(run for run in PLAN.runs if run.folder == best)
            PLAN.note = "  ".join([f"best: {run.run}", *first_said(read_row(run))])
        return True

    def _planned(self, trials: Sequence["FrozenTrial"]) -> list["Planned"]:
        from nas.cli.rows import planned

        return planned(self._config, [self._words(trial.params) for trial in trials], self._fixed)

    def _words(self, values: dict[str, Any]) -> list[str]:
        """The words of a run; numbers are short, since its folder is named after them."""
        texts = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in values.items()}
        return [*self._fixed, *(f"{key}={text}" for key, text in texts.items())]


def _distribution(word: Override) -> Any:
    """What Optuna proposes for ``choice()``, ``range()`` or ``interval()``, either of these perhaps tagged ``log``."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    from nas.errors import SettingError

    sweep: Any = word.value()
    try:
        if word.is_choice_sweep():
            return CategoricalDistribution(tuple(dict.fromkeys(word.sweep_string_iterator())))
        log, interval = "log" in sweep.tags, isinstance(sweep, IntervalSweep)
        numbers = [sweep.start, sweep.end] if interval else sorted(sweep.range())
        step = {} if interval or log else {"step": abs(sweep.step)}
        kind = IntDistribution if all(isinstance(number, int) for number in numbers) else FloatDistribution
        return kind(numbers[0], numbers[-1], log=log, **step)
    except (ValueError, IndexError) as error:
        text = (word.input_line or "").partition("=")[2]
        raise SettingError(word.get_key_element(), text, f"cannot be searched ({error})", "mend its bounds") from None
