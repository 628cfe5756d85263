"""``nas-search`` as a command: what it says, how it is stopped, and how it goes on."""

import math
import os
import re
import shlex
import signal

import pytest
import torch
from hydra import compose, initialize_config_dir
from support.runs import finish, tiny

import nas.search.run
from nas.config import conf_folder, register, settings_from
from nas.errors import SettingError
from nas.settings import SearchRunSettings, SearchSettings

QUICK = ("search.threads=1", "search.tensorboard=false", "search.batch=4")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A supernet of 9 architectures, trained for a second."""
    torch.set_num_threads(1)
    return finish(tiny(), tmp_path_factory.mktemp("train")).folder


def composed(*words):
    register()
    with initialize_config_dir(conf_folder(), version_base="1.3"):
        return settings_from(compose("search", list(words)), SearchRunSettings)


def test_limits_and_groups_are_free_to_choose():
    found = composed("search.limit.flops=40e6", "search.limit.zen=-3", "space=chain", "data=synthetic")
    assert found.search.limit == {"flops": 40e6, "zen": -3.0}
    assert (found.space.name, found.data.name) == ("chain", "synthetic")


def test_a_search_prints_its_front_and_goes_on(nas_search, checkpoint, tmp_path):
    words = (f"checkpoint={checkpoint}", *QUICK, "run=first")
    status, out, err = nas_search(*words, "search.trials=5")
    folder = tmp_path / "outputs" / "search" / "first"
    assert (status, err) == (0, "")
    assert out.startswith(f"chain: 9 architectures, loss, flops; sampler tpe; {folder}\n")
    assert "Pareto front of loss, flops" in out
    assert "5 of 9 architectures evaluated, 5 within the limits" in out
    assert "4/5 trials  best loss" in out
    status, out, err = nas_search(*words, "search.trials=20", "search.progress=false")
    assert (status, err) == (0, "")
    assert "trials  best" not in out  # the result is there all the same
    assert out.startswith("Pareto front of loss, flops\n")
    assert "9 of 9 architectures evaluated" in out
    assert "no architecture is left" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_explains_resuming_and_loses_nothing(nas_search, checkpoint, tmp_path, monkeypatch, number):
    words = (f"checkpoint={checkpoint}", *QUICK, "search.sampler=exhaustive")
    told = []

    class Stopped(nas.search.run.Study):
        def tell(self, *found):
            told.append(found[0].architecture)
            if len(told) == 6:
                os.kill(os.getpid(), number)
            return super().tell(*found)

    monkeypatch.setattr(nas.search.run, "Study", Stopped)
    status, out, err = nas_search(*words, "run=stopped")
    assert (status, err) == (128 + number, "")
    found = re.fullmatch(rf"stopped by {number.name} after 6 trials; to go on: (.*)", out.splitlines()[-1])
    assert found, out
    assert not (tmp_path / "outputs" / "search" / "stopped" / "result.json").exists()
    _, *printed = shlex.split(found[1])
    assert nas_search(*printed)[0] == 0
    assert len(told) == len({*told}) == 9
    assert (tmp_path / "outputs" / "search" / "stopped" / "result.json").exists()


WRONG = {
    "search.objectives=[foo]": r"search\.objectives=foo: is an unknown objective; choose from loss, .*",
    "search.limit.foo=1": r"search\.limit\.foo=1: is a limit on an unknown objective; .*",
    "search.limit.rank_sum=7": r"search\.limit\.rank_sum=7\.0: depends on the other trials, so it is no limit; .*",
    "search.rank_by=rank_sum search.sum=[loss,foo]": r"search\.sum=foo: is no predictor; choose one of .*",
    "search.finetune_steps=20": r"search\.finetune_steps=20: is for loss_tuned and accuracy_tuned; .*",
    "search.limit.flops=7": r"search\.limit\.flops=7: no architecture .* that small; the smallest has \d+; .*",
    "search.limit.parameters=7": r"search\.limit\.parameters=7: no architecture .* that small; the smallest .*",
    "search.limit.flops=7 search.limit.parameters=7": (
        r"search\.limit=\{flops: 7, parameters: 7\}: no architecture .* that small in either; "
        r"allow at least \d+ flops and \d+ parameters, as one has"
    ),
    "search.objectives=[falops]": r"search\.objectives=falops: is an unknown objective; did you mean flops\?",
    "search.objectives=[trained] search.sampler=exhaustive search.trainings=10 search.finals=2": (
        r"search\.trainings=10: leaves 8 candidates, and search\.sampler=exhaustive takes all networks, .*"
    ),
    "search.limit.flops=a": r"search\.limit\.flops=a: .*",
    "space=macro": r"checkpoint=.*: is a checkpoint of another space \(name: chain -> macro\); leave space= out.*",
    "data=digits": r"checkpoint=.*: is a checkpoint trained on other data \(name: synthetic -> digits\); .*",
    "checkpoint=nowhere": r"checkpoint=nowhere: does not exist; name the folder of a run of nas-train",
    "checkpoint=''": r"checkpoint='': a checkpoint or a space must be given; .*",
    "search.limit.accuracy=50": r"search\.limit\.accuracy=50\.0: must be a share, from 0 to 1; write for example .*",
    "search.rungs=1": r"search\.rungs=1: must be a list of whole numbers, as in \[1,2\]; .*",
    "search.train.lr=a": r"search\.train\.lr=a: must be a number; .*",
    "search.objectives=[trained] search.trials=0 search.train.batch_size=999": r"search\.train\.batch_size=999: .*",
    "search.trial=3": r"search\.trial=3: there is no setting .*",
}


def test_bad_input_is_one_line_and_leaves_nothing(nas_search, checkpoint, tmp_path):
    for words, rule in WRONG.items():
        status, out, err = nas_search(f"checkpoint={checkpoint}", *QUICK, *words.split())
        assert (status, out) == (1, ""), words
        assert re.fullmatch(rf"nas-search: {rule}\n", err), err
        assert not list(tmp_path.iterdir()), words


def test_settings_out_of_range_are_refused():
    for key, value, rule in (
        ("objectives", [], r"search\.objectives=\[\]: must name at least one"),
        ("objectives", ["loss", "loss"], r"search\.objectives=.*: must not name one twice"),
        ("limit", {"flops": math.nan}, r"search\.limit\.flops=nan: must be a finite number"),
        ("sampler", "grid", r"search\.sampler=grid: must be one of tpe, random, nsga2, exhaustive"),
        ("rank_by", "accuracy", r"search\.rank_by=accuracy: must be one of , rank_sum, loss, flops"),
        ("trials", -1, r"search\.trials=-1: must not be negative"),
        ("batch", -1, r"search\.batch=-1: must not be negative"),
    ):
        with pytest.raises(SettingError, match=rule):
            SearchSettings(**{key: value})
    with pytest.raises(SettingError, match="run=a/b: must be a plain name"):
        SearchRunSettings(run="a/b")
