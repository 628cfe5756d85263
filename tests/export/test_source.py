"""Which checkpoint and which architecture are meant."""

from hashlib import sha256
from types import SimpleNamespace

import pytest
from support.runs import finish, tiny

import nas.search
from nas.errors import CheckpointError, SettingError
from nas.export import Source, find_source
from nas.train import make_report


@pytest.fixture
def search(trained, monkeypatch):
    digest = sha256(trained.path.read_bytes()).hexdigest()
    found = SimpleNamespace(checkpoint=str(trained.path), checkpoint_digest=digest, best="1-0", weights=None)
    monkeypatch.setattr(nas.search, "read_result", lambda folder: found, raising=False)
    return found


def test_best_is_the_first_of_the_report(tmp_path):
    run = finish(tiny(), tmp_path)
    best = make_report(run).subnetworks[0].architecture
    assert find_source(str(tmp_path), "", "best") == Source(str(tmp_path), best)
    path = next(tmp_path.glob("step_*.safetensors"))
    assert find_source(str(path), "", "best") == Source(str(path), best)
    assert find_source(str(path), "", "0-1").architecture == "0-1"


def test_a_run_without_a_report_has_no_best(tmp_path):
    with pytest.raises(CheckpointError, match=r"architecture=best: there is no report\.json in .*; finish the run"):
        find_source(str(tmp_path), "", "best")
    for text in ("", "[]", "{}", '{"settings": 1, "branches": [], "subnetworks": []}'):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"report\.json cannot be read"):
            find_source(str(tmp_path), "", "best")


def test_a_search_has_its_own_checkpoint_and_best(trained, search):
    assert find_source("", "outputs/search/first", "best") == Source(str(trained.path), "1-0")
    assert find_source("", "outputs/search/first", "0-2") == Source(str(trained.path), "0-2")


def test_a_search_without_its_checkpoint_is_refused(search):
    search.checkpoint_digest = "0" * 64
    with pytest.raises(CheckpointError, match="is not the file that was searched"):
        find_source("", "first", "best")
    search.checkpoint = "nowhere/step_1.safetensors"
    with pytest.raises(CheckpointError, match=r"its checkpoint nowhere/step_1\.safetensors no longer exists"):
        find_source("", "first", "best")
    search.checkpoint = None
    rule = "was made without a checkpoint.*train the best one: nas-train architecture=best search=first$"
    with pytest.raises(CheckpointError, match=rule):
        find_source("", "first", "best")
    assert find_source("", "first", "best", weights=False) == Source("", search.best)


def test_a_source_must_be_named_and_exist(tmp_path):
    with pytest.raises(SettingError, match="one of checkpoint and search must be given"):
        find_source("", "", "best")
    with pytest.raises(CheckpointError, match="does not exist"):
        find_source(str(tmp_path / "nowhere"), "", "1-0")


def test_runs_and_searches_are_not_mixed_up(trained, tmp_path):
    run = str(trained.path.parent)
    with pytest.raises(CheckpointError, match="is a run of nas-train; write checkpoint="):
        find_source("", run, "best")
    (tmp_path / "journal.log").touch()
    with pytest.raises(CheckpointError, match="is a search; write search="):
        find_source(str(tmp_path), "", "best")
