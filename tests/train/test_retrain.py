"""A subnetwork that is trained alone, from scratch and from inherited weights, and what it is compared with."""

import copy
import json
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from support.runs import CHAIN, assert_same, finish, stop_after, tiny

from nas import checkpoint
from nas.checkpoint import calibrated, load_trained
from nas.cost import PathFlops
from nas.cost.flops_match import TOLERANCE, flops_match
from nas.errors import ArchitectureError, CheckpointError, SettingError
from nas.search.target import SearchTarget
from nas.settings import ChainSettings, FixedGateSettings, FolderSettings, SearchRunSettings, TrainRunSettings
from nas.signals import Interrupted
from nas.space import build_space
from nas.train import Run, comparison, evaluate, fit, retrain
from nas.train.alone import retraining

SETTINGS = replace(tiny(), architecture="2-0")
NAMES = ["scratch", "inherited", "random"]
MORE_STOPS = [("inherited", 7), ("random", 21)]


def quiet(settings):
    return replace(settings, track=replace(settings.track, writers=[]))


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    """The folder of a supernet's run."""
    folder = tmp_path_factory.mktemp("supernet")
    with torch.random.fork_rng():
        finish(quiet(tiny()), folder)
    return folder


@pytest.fixture(scope="module")
def settings(supernet):
    return quiet(replace(SETTINGS, checkpoint=str(supernet)))


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """An undisturbed retraining: its folder, what it found, and the weights that each training began with."""
    folder, begun = tmp_path_factory.mktemp("retrained") / "run", {}

    def noting(run):
        begun[run.folder.name] = copy.deepcopy(run.supernet.state_dict())
        fit(run)

    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(retraining, "fit", noting)
        return SimpleNamespace(folder=folder, result=retrain(settings, folder), begun=begun)


def newest(folder):
    state = checkpoint.load_newest(folder)
    return {key: state[key] for key in ("model", "optimizer", "step", "settings", "initial")}


def test_scratch_is_the_run_with_a_fixed_gate(whole, settings, tmp_path):
    alone = replace(settings, architecture="", checkpoint="", gate=FixedGateSettings(architecture="2-0"))
    run = finish(replace(alone, evaluate=replace(alone.evaluate, recalibrate=False)), tmp_path)
    assert_same(newest(whole.folder / "scratch"), newest(tmp_path))
    assert whole.result.rows[0].test_accuracy == run.evaluate("test")[0].accuracy


def test_inherited_begins_where_the_supernets_subnetwork_is(whole, settings, supernet):
    trained = load_trained(supernet)
    network, val = calibrated(trained, (2, 0)), trained.batches(trained.splits.val)
    assert whole.result.rows[1].initial_val_accuracy == evaluate(network, [(2, 0)], val)[0].accuracy
    source = network.state_dict()
    on_path = [name for name in source if "branches" not in name or name.startswith("blocks.0.branches.2")]
    assert any("running_mean" in name for name in on_path)
    assert all(torch.equal(whole.begun["inherited"][name], source[name]) for name in on_path)
    fresh = build_space(CHAIN, 3, 16, 3).supernet(settings.seed).state_dict()
    assert_same(whole.begun["scratch"], fresh)
    assert_same(whole.begun["random"], fresh)


def test_the_file_and_the_table_have_all_three(whole, settings):
    folder, result = whole.folder, whole.result
    data = json.loads((folder / "retrain.json").read_text())
    assert [row["name"] for row in data["rows"]] == [row.name for row in result.rows] == NAMES
    assert [row.architecture for row in result.rows][:2] == ["2-0", "2-0"]
    assert result.rows[2].architecture != "2-0"
    assert data["checkpoint_sha256"] == result.checkpoint_sha256 != ""
    table = comparison(result)
    assert [row[0] for row in table.rows] == NAMES
    assert f"{result.flops_apart:+.1%} FLOPs" in table.caption
    for row in result.rows:
        settings = json.loads((folder / row.name / "report.json").read_text())["settings"]
        assert settings["evaluate"]["recalibrate"] is False
        assert settings["gate"] == {"name": "fixed", "architecture": row.architecture}


@pytest.mark.parametrize(
    ("name", "stop"),
    [("scratch", 3), ("inherited", 14), *(pytest.param(*p, marks=pytest.mark.thorough) for p in MORE_STOPS)],
)
def test_a_stopped_retraining_ends_as_if_undisturbed(whole, settings, tmp_path, monkeypatch, name, stop):
    def stopping(run):
        if run.folder.name == name:
            stop_after(run, stop, signal.SIGINT)
        fit(run)

    monkeypatch.setattr(retraining, "fit", stopping)
    with pytest.raises(Interrupted):
        retrain(settings, tmp_path / "run")
    monkeypatch.undo()
    assert not (tmp_path / "run" / "retrain.json").exists()
    said = []
    result = retrain(settings, tmp_path / "run", say=said.append)
    assert [f"going on at step {stop} of 22" in line for line in said].index(True) == NAMES.index(name)
    assert result == whole.result
    for part in NAMES:
        assert_same(newest(tmp_path / "run" / part), newest(whole.folder / part))
        stopped, undisturbed = (place / part / "metrics.jsonl" for place in (tmp_path / "run", whole.folder))
        assert stopped.read_text().count("\n") == undisturbed.read_text().count("\n")


def test_a_finished_retraining_only_reports_again(whole, settings):
    before = (whole.folder / "retrain.json").read_bytes()
    assert retrain(settings, whole.folder) == whole.result
    assert (whole.folder / "retrain.json").read_bytes() == before


def test_another_architecture_or_other_weights_are_refused(whole, settings, tmp_path):
    with pytest.raises(CheckpointError, match=r"gate\.architecture: 2-0 -> 1-1.*another run=NAME"):
        retrain(replace(settings, architecture="1-1"), whole.folder)
    other = finish(quiet(tiny(epochs=1)), tmp_path)
    with pytest.raises(CheckpointError, match=r"initial weights: [0-9a-f]{64} -> [0-9a-f]{64}"):
        retrain(replace(settings, checkpoint=str(other.folder)), whole.folder)


def test_a_misfit_is_refused_and_leaves_nothing(settings, tmp_path):
    other = r"another space, or its images were split otherwise \("
    cases = [
        (
            {"space": ChainSettings(widths=[4], depths=[2], strides=[1])},
            other + r"space\.candidates: .*conv3'\] -> .*5",
        ),
        ({"space": ChainSettings(), "architecture": "0-0-0-0"}, other + r".*space\.depths: \[2\] -> \[2, 2\]"),
        ({"seed": 1}, other + r"seed: 0 -> 1"),
        ({"data": replace(settings.data, val_fraction=0.2)}, other + r"data\.val_fraction: 0\.12 -> 0\.2"),
        *(({"architecture": text}, "architecture=") for text in ("2", "7-0", "a", "best")),
    ]
    for change, rule in cases:
        with pytest.raises((CheckpointError, ArchitectureError), match=rule):
            retrain(replace(settings, **change), tmp_path / "run")
        assert not list(tmp_path.iterdir()), change


def test_place_and_augmentation_of_the_images_may_differ(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for split, number in (("train", 12), ("test", 4)):
        for name in ("cat", "dog", "emu"):
            (tmp_path / "there" / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = torch.randint(256, (16, 16, 3), generator=generator, dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(tmp_path / "there" / split / name / f"{i}.png")
    place = {name: str(tmp_path / name) for name in ("there", "here", "cache", "other")}
    data = FolderSettings(root=place["there"], image_size=16, cache=place["cache"], val_fraction=0.25)
    before = replace(quiet(tiny(batch_size=8)), data=data)
    finish(before, tmp_path / "supernet")
    shutil.move(tmp_path / "there", tmp_path / "here")
    after = replace(before, architecture="2-0", checkpoint=str(tmp_path / "supernet"))
    after = replace(after, data=replace(data, root=place["here"], cache=place["other"], crop=1, cutout=3, flip=False))
    result = retrain(after, tmp_path / "run")
    assert "inherited" in [row.name for row in result.rows]
    search = SearchRunSettings(checkpoint=after.checkpoint, data=replace(data, root=place["here"]))
    assert SearchTarget.of(search).data_settings.root == place["here"]
    with pytest.raises(CheckpointError, match=r"data\.image_size: 16 -> 8\)"):
        retrain(replace(after, data=replace(after.data, image_size=8)), tmp_path / "smaller")


def test_the_folder_of_a_supernets_run_is_refused(settings, supernet):
    before = sorted(supernet.rglob("*"))
    with pytest.raises(CheckpointError, match="is the run of a supernet; take another run=NAME"):
        retrain(settings, supernet)
    assert sorted(supernet.rglob("*")) == before


def test_settings_that_contradict_each_other_are_refused(tmp_path):
    gate = FixedGateSettings(architecture="0-0")
    for given, rule in (
        ({"checkpoint": "a"}, "checkpoint=a: is for training a subnetwork of it alone; write architecture=best"),
        ({"search": "a"}, "search=a: is for training"),
        ({"architecture": "best"}, "architecture=best: of what, has to be said"),
        ({"architecture": "0-0", "checkpoint": "a", "search": "b"}, "a search has its own checkpoint"),
        ({"architecture": "0-0", "gate": gate}, "gate=fixed: must be left out where"),
    ):
        with pytest.raises(SettingError, match=rule):
            TrainRunSettings(**given)
    with pytest.raises(SettingError, match=r"architecture=2-0: makes several runs.*nas\.train\.retrain"):
        Run(SETTINGS, tmp_path)


def test_a_checkpoint_may_lack_but_not_add_settings(tmp_path):
    run = finish(quiet(tiny(epochs=1)), tmp_path)
    (path,) = checkpoint.saved(tmp_path)
    state = checkpoint.load(path)
    del state["settings"]["train"]["compile"], state["settings"]["evaluate"]["rounds"]
    checkpoint.save(tmp_path, state["step"], state)
    again = quiet(replace(tiny(epochs=1), evaluate=replace(tiny().evaluate, rounds=2)))  # the default
    assert Run(again, tmp_path).step == run.step
    state["settings"]["train"]["later"] = 1
    checkpoint.save(tmp_path, state["step"], state)
    with pytest.raises(CheckpointError, match=r"was begun by gated-nas .*: train\.later=1 is unknown to this version"):
        Run(again, tmp_path)


# ------------------------------------------------------------------------------------- the random one


def random_one(**changes):
    space = build_space(ChainSettings(**{"widths": [4, 8], "depths": [2, 2], "strides": [1, 2], **changes}), 3, 16, 3)
    flops = PathFlops(space, space.supernet(), (3, 16, 16))
    return space, flops, lambda architecture, seed: flops_match(space, flops, architecture, seed)


def test_the_random_one_has_the_same_flops():
    space, flops, match = random_one()
    farther = []
    for architecture in ((0, 1, 2, 3), (3, 3, 2, 1), (1, 1, 1, 1), (0, 2, 1, 2)):
        others = [other for other in space.enumerate() if other != architecture]
        equal = {other for other in others if abs(flops(other) / flops(architecture) - 1) <= TOLERANCE}
        found = {match(architecture, seed) for seed in range(30)}
        assert found
        assert found <= equal
        assert len(found) > 1 or len(equal) == 1
        assert match(architecture, 5) == match(architecture, 5)
        distances = {other: abs(flops(other) - flops(architecture)) for other in equal}
        farther += [other for other in found if distances[other] > min(distances.values())]
    assert farther, "all within the tolerance are as good as the nearest"


def test_without_equal_flops_the_nearest_is_taken():
    space, flops, match = random_one()
    most = max(space.enumerate(), key=flops)
    everything = ((0, 1, 2, 3),) * 4  # more FLOPs than any architecture with one open branch a slot
    assert flops(match(everything, 0)) == flops(most)
    *_, match = random_one(widths=[4], depths=[1], strides=[1], candidates=["conv1", "conv3"])
    assert match(((1,),), 0) == (0,)  # an architecture written otherwise is still the same
    *_, match = random_one(candidates=["conv1"])
    assert match((0, 0, 0, 0), 0) is None


def test_a_set_is_compared_with_a_random_set(settings, tmp_path):
    rows = retrain(replace(settings, checkpoint="", architecture="0+2-1"), tmp_path).rows
    assert "+" in rows[1].architecture
    assert abs(rows[1].flops / rows[0].flops - 1) < 0.5


def test_what_cannot_be_compared_is_left_out(settings, tmp_path):
    """Nothing is inherited without a checkpoint; a space of one architecture has no other, and the table says so."""
    alone = replace(settings, checkpoint="", architecture="0-0")
    assert [row.name for row in retrain(alone, tmp_path / "alone").rows] == ["scratch", "random"]
    result = retrain(replace(alone, space=replace(CHAIN, candidates=["conv1"])), tmp_path / "run")
    assert [row.name for row in result.rows] == ["scratch"]
    assert (result.flops_apart, result.checkpoint, result.checkpoint_sha256) == (None, "", "")
    assert "no other architecture" in comparison(result).caption
