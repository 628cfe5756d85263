"""Optuna and its dashboard read a search, also while it goes on."""

import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from support.studies import CHAIN, COSTS, SPACE, run, values_of, work

from nas.errors import CheckpointError
from nas.search.objectives import Limits, objective
from nas.search.optuna_log import write_optuna_log
from nas.search.propose.proposers import RandomProposer
from nas.search.study import Study
from nas.settings import ChainSettings, SearchRunSettings, SearchSettings, SyntheticSettings

OBJECTIVES = [objective("accuracy"), objective("flops")]


def open_study(folder):
    proposer = RandomProposer(SPACE, Limits(SPACE, {"flops": 150}, COSTS), 0)
    return Study(folder, proposer, OBJECTIVES, trials=8, batch=4, definition={})


def dashboards_storage(path):
    reader = pytest.importorskip("optuna_dashboard._storage_url")
    return reader.get_storage(str(path))


def optunas_storage(path):
    return JournalStorage(JournalFileBackend(str(path)))


@pytest.mark.parametrize("storage_of", [optunas_storage, dashboards_storage])
def test_an_open_dashboard_sees_later_trials(tmp_path, storage_of):
    folder = tmp_path / "first"
    study = open_study(folder)
    *_, last = study.claim()
    study.tell(last, {}, 0.1, failed="it is too wide")
    write_optuna_log(folder, study, OBJECTIVES)
    storage = storage_of(folder / "optuna.log")
    assert [trial.state.name for trial in storage.get_all_trials(0)] == ["FAIL"]
    work(study)
    write_optuna_log(folder, study, OBJECTIVES)
    [opened] = storage.get_all_studies()
    assert (opened.study_name, opened.system_attrs["study:metric_names"]) == ("first", ["accuracy", "flops"])
    assert [direction.name for direction in opened.directions] == ["MAXIMIZE", "MINIMIZE"]
    ended = {trial.user_attrs["trial"]: trial for trial in storage.get_all_trials(0)}
    assert sorted(ended) == list(range(8)) == [trial.number for trial in storage.get_all_trials(0)]
    for trial in study.trials():
        found, values = ended[trial.number], values_of(trial.architecture)
        name = {"trial": trial.number, "architecture": SPACE.encode(trial.architecture)}
        assert found.params == {s.name: s.choices[i] for s, i in zip(SPACE.slots, trial.architecture, strict=True)}
        if trial.failed:
            assert found.user_attrs == name | {"failed": "it is too wide"}
        else:
            assert found.values == [values["accuracy"], values["flops"]]
            assert found.user_attrs == name | values


def test_a_search_of_sums_alone_leaves_what_they_add_up(tmp_path):
    space = ChainSettings(depths=[2], **CHAIN)
    how = SearchSettings(
        objectives=["rank_sum"], sum=["naswot", "parameters"], trials=3, proxy_images=8, progress=False
    )
    run(SearchRunSettings(space=space, data=SyntheticSettings(size=60, image_size=8), search=how), tmp_path)
    storage = optunas_storage(tmp_path / "optuna.log")
    assert storage.get_all_studies()[0].system_attrs["study:metric_names"] == ["naswot", "parameters"]
    assert len(storage.get_all_trials(0)) == 3


def test_a_damaged_copy_is_one_clear_error(tmp_path):
    study = open_study(tmp_path)
    (tmp_path / "optuna.log").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot be read .*; delete it: it is made again"):
        write_optuna_log(tmp_path, study, OBJECTIVES)
