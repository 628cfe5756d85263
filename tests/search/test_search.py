"""From a checkpoint to a report: the numbers are those of the evaluator, and every file says the same."""

import csv
import io
import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from rich.console import Console
from support.runs import finish, tiny
from support.studies import run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from nas.checkpoint import load_trained
from nas.cost import PathFlops
from nas.errors import CheckpointError, DivergedError, ScoreError, SettingError, SpaceError
from nas.search import Evaluator, Finetune, Search, SearchTarget, read_result, search, summarize, summary
from nas.search.derived import Derived
from nas.search.measure import Measures
from nas.search.objectives import objective
from nas.search.pareto import front
from nas.search.propose.proposers import Trial
from nas.search.report import how_measured
from nas.search.run import LINES, SearchBar
from nas.settings import (
    CellSettings,
    ChainSettings,
    CustomSettings,
    SearchRunSettings,
    SearchSettings,
    SyntheticSettings,
)
from nas.signals import Interrupted


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A supernet of 9 architectures, trained for a second."""
    folder = tmp_path_factory.mktemp("train")
    torch.set_num_threads(1)
    return finish(tiny(), folder).folder


def settings(checkpoint, **how):
    how = {"threads": 1, "progress": False, "batch": 4, **how}
    return SearchRunSettings(checkpoint=str(checkpoint), search=SearchSettings(**how))


def untrained(space, **how):
    how = {"threads": 1, "progress": False, "proxy_images": 8, **how}
    data = SyntheticSettings(size=64, image_size=16, classes=3)
    return SearchRunSettings(space=space, data=data, search=SearchSettings(**how))


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def exhaustive(checkpoint, tmp_path_factory):
    """A search of everything, with a limit that some break: the search, its outcome, its folder."""
    folder = tmp_path_factory.mktemp("exhaustive")
    return *run(settings(checkpoint, sampler="exhaustive", limit={"accuracy": 0.3}), folder), folder


def test_values_are_those_of_evaluator_and_costs(checkpoint, exhaustive):
    _, found, _ = exhaustive
    trained = load_trained(checkpoint)
    alone = {j.architecture: j for a in trained.space.enumerate() for j in Evaluator.of(trained)([a])}
    flops = PathFlops(trained.space, trained.supernet, trained.splits.input_shape)
    assert [t.architecture for t in found.trials] == list(trained.space.enumerate())
    for trial in found.trials:
        by_itself = alone[trial.architecture]
        assert trial.values["loss"] == pytest.approx(by_itself.loss, rel=1e-6)
        assert trial.values["accuracy"] == by_itself.accuracy
        assert trial.values["flops"] == flops(trial.architecture)


def test_the_files_say_the_same(exhaustive):
    begun, _, folder = exhaustive
    space, trials = begun.target.space, table(folder / "trials.csv")
    assert [row["architecture"] for row in trials] == [space.encode(a) for a in space.enumerate()]
    feasible = [row for row in trials if row["feasible"] == "True"]
    assert feasible == [row for row in trials if float(row["accuracy"]) >= 0.3]
    best = front([(float(row["loss"]), float(row["flops"])) for row in feasible])
    on_front = table(folder / "front.csv")
    assert sorted(on_front, key=str) == sorted((feasible[i] for i in best), key=str)
    result = read_result(folder)
    assert [row["architecture"] for row in result.front] == [row["architecture"] for row in on_front]
    smallest = min(feasible, key=lambda row: float(row["loss"]))["architecture"]
    assert result.best == on_front[0]["architecture"] == smallest
    assert result.values["loss"] == float(on_front[0]["loss"])
    assert result.evaluated == len(trials) == 9
    page = (folder / "report.md").read_text()
    assert f"| `{result.best}` |" in page
    assert page.count("![") == 2
    for name in ("front", "hypervolume"):
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 300
    board = EventAccumulator(str(folder)).Reload()
    points = {point.step: point.value for point in board.Scalars("trial/loss")}
    assert points == {int(row["trial"]) + 1: pytest.approx(float(row["loss"])) for row in feasible}
    assert board.Scalars("overview/best_loss")[-1].value == pytest.approx(result.values["loss"])
    assert {"plots/front", "plots/hypervolume"} <= {*board.Tags()["images"]}
    content = board.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    shown = metadata.parse_session_start_info_plugin_data(content).hparams
    assert {"checkpoint", "search.sampler"} <= {*shown}
    assert not {"run", "search.tensorboard"} & {*shown}, "they have their defaults, or are a name"


def test_a_copied_checkpoint_is_the_same_search(checkpoint, tmp_path, monkeypatch):
    """And the result finds the checkpoint, whichever folder it is read in."""
    monkeypatch.chdir(checkpoint.parent)
    run(settings(checkpoint.name, trials=4), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    result = read_result(tmp_path / "run")
    assert load_trained(result.checkpoint).path.samefile(load_trained(checkpoint).path)
    assert result.space["name"] == "chain"
    first = {name: (tmp_path / "run" / name).read_bytes() for name in ("trials.csv", "front.csv", "journal.log")}
    copied = tmp_path / "elsewhere.safetensors"
    copied.write_bytes(load_trained(checkpoint).path.read_bytes())
    run(settings(copied, trials=4), tmp_path / "run")
    assert {name: (tmp_path / "run" / name).read_bytes() for name in first} == first
    older = min(checkpoint.glob("step_*.safetensors"))
    with pytest.raises(CheckpointError, match=r"was begun with other settings \(checkpoint: \w+ -> \w+\)"):
        Search(settings(older, trials=4), tmp_path / "run")


def test_another_space_or_other_data_are_refused(checkpoint, tmp_path):
    other = replace(settings(checkpoint), space=ChainSettings(widths=[8], depths=[2], strides=[1]))
    with pytest.raises(CheckpointError, match=r"is a checkpoint of another space \(.*widths: \[4\] -> \[8\]\)"):
        Search(other, tmp_path / "run")
    other = replace(settings(checkpoint), data=SyntheticSettings())
    with pytest.raises(CheckpointError, match="is a checkpoint trained on other data"):
        Search(other, tmp_path / "run")
    same = replace(settings(checkpoint, trials=1), space=load_trained(checkpoint).settings.space)
    run(same, tmp_path / "run")


def test_proxies_and_latency_need_no_checkpoint(tmp_path):
    space = ChainSettings(widths=[4], depths=[2], strides=[1], candidates=["skip", "conv3"])
    begun, found = run(untrained(space, objectives=["naswot", "parameters", "latency"], trials=2), tmp_path)
    assert len(found.trials) == len(found.feasible) == 2
    assert all(t.values.keys() == {"naswot", "parameters", "latency", "flops"} for t in found.trials)
    assert all(t.values["latency"] > 0 for t in found.trials)
    result = read_result(tmp_path)
    assert (result.checkpoint, result.checkpoint_digest, result.data["size"]) == (None, None, 64)
    best = max(found.trials, key=lambda t: t.values["naswot"])
    assert result.best == begun.target.space.encode(best.architecture)


def test_what_cannot_be_measured_is_refused(tmp_path):
    space = ChainSettings(widths=[4], depths=[1], strides=[1])
    for how, rule in (
        ({}, r"search\.objectives=.*: accuracy and loss need a trained supernet"),
        (
            {"objectives": ["naswot"], "limit": {"flops": 1e9, "accuracy": 0.5}},
            r"search\.limit\.accuracy=0\.5: .* need a trained supernet; .* leave this",
        ),
        ({"objectives": ["naswot"], "proxy_images": 1}, r"search\.proxy_images=1: must be at least 2"),
        (
            {"objectives": ["naswot"], "proxy_images": 64},
            r"search\.proxy_images=64: 2 such batches need 128 training images; there are \d+; write .*=(\d+) or less",
        ),
    ):
        with pytest.raises(SettingError, match=rule) as refused:
            Search(untrained(space, **how), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    most = int(str(refused.value).split("proxy_images=")[2].split()[0])
    batches = Search(untrained(space, objectives=["naswot"], proxy_images=most), tmp_path).measures._batches
    assert [len(x) for x, _ in batches] == [most, most]


def test_what_is_not_finite_fails_with_its_reason(checkpoint, tmp_path, monkeypatch):
    def measured_as(value, **how):
        monkeypatch.setattr(Measures, "_of_network", value)
        return run(settings(checkpoint, proxy_images=8, **how), tmp_path / how["objectives"][0] / str(len(how)))[1]

    def half(self, architecture):  # what fails first does not stop the search
        return {"synflow": float("-inf") if architecture[0] < 2 else 1.0 + sum(architecture)}

    def refuse(*_):
        raise ScoreError("proxies", "naswot", "needs a ReLU, and the network has none", "leave it out")

    found = measured_as(half, objectives=["synflow"], sampler="exhaustive")
    failed = [(t.architecture[0], t.failed) for t in found.trials if t.failed]
    assert failed == [(first, "synflow is -inf") for first in (0, 0, 0, 1, 1, 1)]
    assert len(found.feasible) == 3
    assert "inf" not in (tmp_path / "synflow" / "2" / "front.csv").read_text()
    assert json.loads((tmp_path / "synflow" / "2" / "result.json").read_text())["evaluated"] == 9
    with pytest.raises(SettingError, match="not one of 9 architectures could be evaluated; the last: synflow is inf"):
        measured_as(lambda *_: {"synflow": float("inf")}, objectives=["synflow"])
    with pytest.raises(SettingError, match=r"not one of 4 architectures .*; the last: naswot: needs a ReLU"):
        measured_as(refuse, objectives=["naswot"])  # which no other architecture of its kind will change


def test_a_stopped_search_goes_on_when_asked_again(checkpoint, tmp_path, monkeypatch):
    _, whole = run(settings(checkpoint, sampler="exhaustive"), tmp_path / "whole")
    begun = Search(settings(checkpoint, sampler="exhaustive"), tmp_path / "stopped")
    tell, told = begun.study.tell, []

    def stop_at_6(*found):
        told.append(found[0].number)
        if len(told) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return tell(*found)

    monkeypatch.setattr(begun.study, "tell", stop_at_6)
    monkeypatch.setattr("nas.search.run.time.sleep", lambda _: pytest.fail("it waits for itself"))
    with pytest.raises(Interrupted):
        search(begun)
    again = search(begun)
    begun.study.close()
    assert told == [*range(9)]
    assert [(t.architecture, t.values) for t in again.trials] == [(t.architecture, t.values) for t in whole.trials]


def test_batchnorm_follows_the_run_unless_told_otherwise(checkpoint, exhaustive):
    _, outcome, _ = exhaustive
    trained = load_trained(checkpoint)
    words = {True: "statistics estimated for each", False: "the supernet's running statistics"}
    note = "nas-export writes the BatchNorm statistics that the run evaluates with, not these"
    tuned = "nas-export writes the supernet's weights, not the fine-tuned ones"
    for own in (True, False):
        evaluate = replace(trained.settings.evaluate, recalibrate=own)
        other = replace(trained, settings=replace(trained.settings, evaluate=evaluate))
        target = SearchTarget(other.space, None, None, other.splits, 0, other)
        values = {}
        for asked in (None, True, False):
            wanted, more = settings(checkpoint, recalibrate=asked), {"loss_tuned": 1.0} if own else {}
            trials = [replace(t, values={**t.values, **more}) for t in outcome.trials]
            lines = how_measured(wanted, target, replace(outcome, candidates=trials))
            told = "as the run evaluates" if asked is None else f"search.recalibrate={str(asked).lower()}"
            assert f"{words[own if asked is None else asked]} ({told})" in lines[0], (own, asked)
            assert (note in lines) is (asked is (not own)), (own, asked)
            fewer = how_measured(
                settings(checkpoint, recalibrate=asked, images=5, recalibrate_images=7), target, outcome
            )
            assert fewer[0].startswith("accuracy and loss: 5 val images")
            assert ("on 7 training images" in fewer[0]) is target.recalibrates(asked)
            assert (tuned in lines) is own
            (found,) = Measures(target, wanted.search, outcome.objectives)([Trial(0, (1, 2))])
            values[asked] = found.values
        assert values[None] == values[own] != values[not own], own


def test_a_supernet_is_asked_as_nas_rank_asks(checkpoint):
    trained = load_trained(checkpoint)
    wanted = settings(checkpoint, objectives=["loss", "loss_running", "accuracy_tuned"], finetune_steps=2)
    target = SearchTarget(trained.space, None, None, trained.splits, 0, trained)
    trials = [Trial(0, (1, 2)), Trial(1, (0, 1))]
    evaluators = {
        "": Evaluator.of(trained, recalibrate=True),
        "_running": Evaluator.of(trained, recalibrate=False),
        "_tuned": Evaluator.of(trained, recalibrate=True, finetune=Finetune.of(trained, 2, wanted.search.finetune_lr)),
    }
    for found in Measures(target, wanted.search, [objective(name) for name in wanted.search.objectives])(trials):
        for end, evaluator in evaluators.items():
            (one,) = evaluator([found.trial.architecture])
            assert found.values[f"loss{end}"] == pytest.approx(one.loss, rel=1e-6), end
            assert found.values[f"accuracy{end}"] == one.accuracy, end


def test_one_way_that_diverges_leaves_the_others_in_step(checkpoint, monkeypatch):
    trained = load_trained(checkpoint)
    result, calls = Evaluator._result, []

    def fail_once(self, of):
        calls.append(of)
        if len(calls) == 1:
            raise DivergedError("architecture", "x", "its loss is nan", "train again")
        return result(self, of)

    monkeypatch.setattr(Evaluator, "_result", fail_once)
    target = SearchTarget(trained.space, None, None, trained.splits, 0, trained)
    needed = [objective("loss"), objective("loss_running")]
    first, second = Measures(target, SearchSettings(), needed)([Trial(0, (0, 1)), Trial(1, (1, 2))])
    assert (first.values, first.failed) == ({}, "x: its loss is nan")
    (alone,) = Evaluator.of(trained, recalibrate=False)([(1, 2)])
    assert second.values["loss_running"] == pytest.approx(alone.loss, rel=1e-6)


def test_widths_are_found_with_and_without_a_checkpoint(tmp_path):
    net = CustomSettings(factory="support.exports:Net")
    trained = finish(tiny(replace(tiny(epochs=1), space=net)), tmp_path / "trained").folder
    how = {"trials": 1, "proxy_images": 8, "objectives": ["parameters", "naswot", "latency"]}
    for wanted in (
        replace(settings(trained, **how), factory=net.factory),
        replace(settings(trained, trials=1), space=net),
        untrained(net, trials=1, objectives=["naswot", "parameters"]),
    ):
        search_of_one = Search(wanted, tmp_path / "search")
        (found,) = search_of_one.measures([Trial(0, (0, 1))])
        assert found.values["parameters"] > 0, found.failed
        search_of_one.study.close()


def test_the_report_names_what_is_left_out(tmp_path):
    space = CustomSettings(factory="support.chains:SharingNet")
    _, found = run(untrained(space, objectives=["naswot"], trials=2), tmp_path)
    assert "parameters" not in found.trials[0].values
    (line,) = [line for line in summary(found) if line.startswith("parameters")]
    assert line.startswith("parameters are left out: slot")
    assert "shares parameters with slot" in line
    assert line in (tmp_path / "report.md").read_text()
    with pytest.raises(SpaceError, match="shares parameters"):
        Search(untrained(space, objectives=["naswot"], limit={"parameters": 1e6}), tmp_path / "needed")


def test_a_search_finding_nothing_within_limits_says_so(checkpoint, tmp_path):
    run(settings(checkpoint, trials=3, limit={"accuracy": 1.0}), tmp_path)
    assert "3 were evaluated and found to break a limit" in (tmp_path / "report.md").read_text()
    with pytest.raises(CheckpointError, match="found nothing within its limits"):
        read_result(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist; name the folder of a search"):
        read_result(tmp_path / "nowhere")


def trial(number, loss, synflow, flops):
    return Trial(number, (number,), {"loss": loss, "synflow": synflow, "flops": flops}, True, True)


def test_the_best_is_by_the_objective_asked_for():
    objectives = [objective(name) for name in ("loss", "synflow", "flops")]
    trials = [trial(0, 0.1, 1.0, 9.0), trial(1, 0.2, 3.0, 8.0), trial(2, 0.3, 2.0, 7.0), trial(3, 0.4, 4.0, 6.0)]
    broken = replace(trial(4, 0.0, 9.0, 1.0), feasible=False)
    found = Derived(None, objectives[:2])([*trials, broken])
    best = {by: summarize(None, objectives, found, by).best.number for by in ("", "synflow", "flops", "rank_sum")}
    assert best == {"": 0, "synflow": 3, "flops": 3, "rank_sum": 1}  # 4 + 1, 3 + 3, 2 + 2, 1 + 4, and 5 + 5


def test_of_equals_the_cheapest_is_shown_and_best():
    objectives = [objective("loss")]
    trials = [trial(0, 0.1, 0.0, 9.0), trial(1, 0.1, 0.0, 7.0), trial(2, 0.1, 0.0, 7.0), trial(3, 0.3, 0.0, 1.0)]
    trials = [replace(t, values=t.values | {"parameters": 5.0 - t.number}) for t in trials]
    found = summarize(None, objectives, trials)
    assert (found.best.number, [t.number for t in found.front]) == (2, [2])


def test_a_search_counts_networks(tmp_path):
    how = {"objectives": ["flops", "parameters"], "sampler": "exhaustive", "limit": {"flops": 284_768}, "trials": 5}
    begun, found = run(untrained(CellSettings(cells=1, width=4), **how), tmp_path)
    networks = [*begun.target.space.networks()]
    allowed = [network for network in networks if begun.measures.costs["flops"](network) <= 284_768]
    assert [t.architecture for t in found.trials] == allowed[:5]
    assert SearchBar(begun.study, None, False)._total == len(allowed) > 5
    assert "the 15,625 architectures name 10,405 networks, each of which is evaluated once" in summary(found)


def test_without_a_terminal_there_are_ten_lines(checkpoint, tmp_path):
    begun, text = Search(settings(checkpoint, sampler="exhaustive"), tmp_path), io.StringIO()
    begun.study.space = SimpleNamespace(size=10**9)
    with SearchBar(begun.study, 90, True, Console(file=text)) as bar:
        for number in range(1, 91):
            begun.study.finished = lambda number=number: number
            bar.note_trial()
    begun.study.close()
    lines = text.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == [f"{9 * i}/90" for i in range(1, LINES + 1)]
    assert all("best none within the limits" in line for line in lines)
