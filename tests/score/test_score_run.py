"""Runs of proxies over a space: what is scored, that a stopped run goes on, and the files."""

import csv
import math
from dataclasses import asdict, replace
from itertools import islice

import pytest
import torch

from nas.data import load_splits
from nas.errors import ArchitectureError, CheckpointError, SettingError
from nas.score import PROXIES, ScoreError, rank_sum, score
from nas.score.run import Row, ScoreRun, choose, training_batches
from nas.settings import (
    ChainSettings,
    CustomSettings,
    ScoreSettings,
    SyntheticSettings,
)
from nas.space import build_space

CHAIN = ChainSettings(widths=[4], depths=[3], strides=[1], candidates=["skip", "conv1", "conv3"])
TINY = ScoreSettings(
    space=CHAIN,
    data=SyntheticSettings(size=100, image_size=8, classes=3),
    proxies=["naswot", "snip", "ntk_condition"],
    architectures=6,
    batch_size=8,
    progress=False,
)
SPACE = build_space(CHAIN, 3, 8, 3)


def finish(settings, folder):
    folder.mkdir(exist_ok=True)
    run = ScoreRun(settings, folder)
    rows = list(run)
    run.write()
    return run, rows


def contents(folder):
    """``scores.csv`` without its times."""
    with (folder / "scores.csv").open() as file:
        return [row[:-1] for row in csv.reader(file)]


def test_architectures_are_drawn_by_seed_and_once():
    for number in (1, 5, 20, 26, 27, 1000):
        settings = replace(TINY, architectures=number)
        drawn = choose(SPACE, settings)
        assert len(drawn) == len(set(drawn)) == min(number, 27)
        assert drawn == choose(SPACE, settings)
        assert number >= 27 or drawn != choose(SPACE, replace(settings, seed=1))
        assert all(SPACE.validate(architecture) == architecture for architecture in drawn)


def test_named_architectures_alone_are_scored_once():
    assert choose(SPACE, replace(TINY, only=["2-0-1", "0-0-0", "2-0-1"])) == [(2, 0, 1), (0, 0, 0)]
    with pytest.raises(ArchitectureError):
        choose(SPACE, replace(TINY, only=["2-0-3"]))


def test_only_takes_a_file(tmp_path):
    listed, table = tmp_path / "listed.txt", tmp_path / "table.csv"
    listed.write_text("# the two\n2-0-1\n\n 0-0-0 \n")
    table.write_text('trial,architecture,choices\n7,2-0-1,"a, b"\n8,0-0-0,"c, d"\n')
    for file in (listed, table):
        run = ScoreRun(
            replace(TINY, only=str(file)), tmp_path / "one"
        )  # the same run: it is what the file says that counts
        assert run.wanted == ["2-0-1", "0-0-0"]
        list(run)
    listed.write_text("# none\n")
    for file, rule in ((listed, "names no architecture"), (tmp_path, "cannot be read"), (tmp_path / "x", "cannot be")):
        with pytest.raises(SettingError, match=f"only=.*{rule}.*; name a file with one architecture a line, or write"):
            ScoreRun(replace(TINY, only=str(file)), tmp_path / "none")


def test_an_architecture_has_the_weights_of_its_own(tmp_path):
    settings = replace(TINY, only=["2-0-1"], weights=2, seed=3)
    _, (row,) = finish(settings, tmp_path)
    batches = training_batches(
        load_splits(settings.data, 3), settings.batches, settings.batch_size, 3, "score", "batch_size"
    )
    alone = [score(SPACE.subnet((2, 0, 1), seed), TINY.proxies, batches, seed).values for seed in (3, 4)]
    assert row.values == {name: (alone[0][name] + alone[1][name]) / 2 for name in TINY.proxies}
    assert alone[0] != alone[1]


def test_a_network_with_lazy_widths_can_be_scored(tmp_path):
    net = CustomSettings(factory="support.exports:Net")
    settings = replace(TINY, space=net, proxies=["naswot"], weights=2, architectures=4)
    assert len(finish(settings, tmp_path)[1]) == 4


def test_a_stopped_run_equals_an_undisturbed_one(tmp_path):
    whole, rows = finish(TINY, tmp_path / "whole")
    (tmp_path / "stopped").mkdir()
    first = list(islice(ScoreRun(TINY, tmp_path / "stopped"), 2))
    assert not (tmp_path / "stopped" / "scores.csv").exists()
    with (tmp_path / "stopped" / "scores.jsonl").open("a") as file:
        file.write('{"architecture": "0-')  # a crash in the middle of a line
    _, rest = finish(replace(TINY, progress=True), tmp_path / "stopped")
    assert len(first) == 2
    assert [row.architecture for row in (*first, *rest)] == [row.architecture for row in rows] == whole.wanted
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert finish(TINY, tmp_path / "stopped")[1] == []


def test_a_run_continues_with_the_same_settings_alone(tmp_path):
    finish(TINY, tmp_path)
    before = (tmp_path / "scores.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"other settings \(batches: 2 -> 1; space.widths: \[4\] -> \[8\]\)"):
        ScoreRun(replace(TINY, batches=1, space=replace(CHAIN, widths=[8])), tmp_path)
    assert (tmp_path / "scores.jsonl").read_bytes() == before
    finish(replace(TINY, rank_sum=["snip"], run="renamed"), tmp_path)  # these change no score


def test_the_file_has_every_architecture_the_best_first(tmp_path):
    run, rows = finish(TINY, tmp_path)
    header, *lines = contents(tmp_path)
    assert header == ["architecture", *TINY.proxies, "rank_sum"]
    assert sorted(line[0] for line in lines) == sorted(row.architecture for row in rows)
    sums = [float(line[-1]) for line in lines]
    assert sums == sorted(sums, reverse=True)
    values = {row.architecture: list(row.values.values()) for row in rows}
    better = {name: PROXIES[name].higher_is_better for name in TINY.proxies}
    columns = {name: [row.values[name] for row in rows] for name in TINY.proxies}
    total = dict(zip(values, rank_sum(columns, better), strict=True))
    for name, *cells in lines:
        assert [float(cell) for cell in cells] == [*values[name], total[name]]
    assert {row.architecture: found for row, found in run.ranked()} == total


def test_an_infinite_score_is_kept_and_ranks_last(tmp_path):
    run = ScoreRun(replace(TINY, proxies=["snip", "naswot"]), tmp_path)
    first = Row(run.wanted[0], {"snip": 1.0, "naswot": -math.inf}, 0.1)
    run.journal.append(asdict(first))
    list(run)
    again, rest = finish(replace(TINY, proxies=["snip", "naswot"], rank_sum=["naswot"]), tmp_path)
    assert rest == []
    assert again.ranked()[-1][0].architecture == first.architecture
    assert contents(tmp_path)[-1][2] == "-inf"


def test_an_error_names_the_architecture(tmp_path):
    with pytest.raises(ScoreError, match=r"needs at least 2 batches.*\(architecture [0-2]-[0-2]-[0-2]\)"):
        finish(replace(TINY, proxies=["zico"], batches=1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_bad_settings_are_refused_and_write_nothing(tmp_path):
    for change, error in (
        ({"proxies": ["nas"]}, ScoreError),
        ({"proxies": []}, ScoreError),
        ({"proxies": ["snip", "snip"]}, ScoreError),
        ({"batch_size": 60}, SettingError),
        ({"only": ["9-9-9"]}, ArchitectureError),
    ):
        with pytest.raises(error):
            ScoreRun(replace(TINY, **change), tmp_path)
    for change in ({"architectures": 0}, {"weights": 0}, {"batch_size": 1}, {"batches": 0}, {"seed": -1}):
        with pytest.raises(SettingError):
            replace(TINY, **change)
    with pytest.raises(SettingError, match="rank_sum=zen: must be among"):
        replace(TINY, rank_sum=["snip", "zen"])
    assert not list(tmp_path.iterdir())


def test_scores_do_not_depend_on_other_architectures(tmp_path):
    _, few = finish(replace(TINY, architectures=2), tmp_path / "few")
    torch.manual_seed(5)
    _, many = finish(replace(TINY, architectures=4), tmp_path / "many")
    assert [row.values for row in few] == [row.values for row in many[:2]]


def test_an_architecture_scored_twice_counts_once(tmp_path):
    first, second = ScoreRun(TINY, tmp_path), ScoreRun(TINY, tmp_path)
    list(first)
    list(second)
    assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 1 + 2 * 6
    assert len(ScoreRun(TINY, tmp_path).rows) == 6
