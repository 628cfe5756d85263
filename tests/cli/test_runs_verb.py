"""``nas-runs``: what the table says is what the runs' own files say, and a damaged file is one line."""

import csv
import json
import shlex
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.runs import finish, stop_after, tiny

from nas.cli.runs import parser
from nas.runs import FoundRun, curves, find_runs
from nas.search.outcome import SearchResult
from nas.settings import FairGateSettings, SGDSettings
from nas.signals import Interrupted
from nas.train import Run, fit, make_report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three trainings, the last one stopped after 15 of 22 steps; and what else may lie there, as plain files."""
    top = tmp_path_factory.mktemp("outputs")
    make_report(finish(tiny(), top / "train" / "a"))
    faster = replace(tiny(), optimizer=SGDSettings(lr=0.1), gate=FairGateSettings())
    make_report(finish(faster, top / "train" / "sweep" / "b"))
    run = Run(replace(faster, seed=5), top / "train" / "sweep" / "c")
    stop_after(run, 15)
    with pytest.raises(Interrupted):
        fit(run)
    run.tracker.writer.close()
    result = SearchResult(None, "", {}, {}, ["loss"], "1-0", {"accuracy": 0.5}, [], 9, None, None)
    rows = [{"name": name, "correlation": {"tau": tau}} for name, tau in (("loss", 0.61), ("flops", 0.2))]
    card = {"network": {"architecture": "2-1", "space": {"name": "chain"}}, "accuracy": {"val": 0.25, "test": 0.2}}
    write(top / "search" / "s", "result.json", asdict(result))
    write(top / "search" / "s" / "trainings" / "1-0_0", "report.json", {})  # a part of the search
    write(top / "rank" / "r", "report.json", {"settings": {"seed": 1}, "rows": rows})
    (top / "rank" / "r" / "rank.csv").touch()
    write(top / "export" / "e", "card.json", card)
    write(top / "train" / "d", "failed.txt", "seed=-2: must not be negative\nTraceback")
    return top


def write(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def table(path):
    return {row["run"]: row for row in csv.DictReader(path.read_text().splitlines())}


def test_the_table_agrees_with_the_reports(command, folder, tmp_path):
    ended = command("runs", str(folder), "--csv", "runs.csv")
    assert (ended.status, ended.err) == (0, "")
    rows = table(tmp_path / "runs.csv")
    assert list(rows) == ["export/e", "rank/r", "search/s", "train/a", "train/d", "train/sweep/b", "train/sweep/c"]
    for name in "train/a", "train/sweep/b":
        report = json.loads((folder / name / "report.json").read_text())
        vals = [row["val_accuracy"] for row in report["subnetworks"]]
        want = max(vals), sum(vals) / len(vals), report["subnetworks"][0]["test_accuracy"], report["images_per_s"]
        found = [float(rows[name][key]) for key in ("best", "mean", "test", "images_per_s")]
        assert found == pytest.approx(want)
        assert f"{want[2]:.1%}" in ended.out
    gates = [(row["gate"], row["optimizer.lr"], row["seed"]) for row in rows.values() if row["kind"] == "train"]
    assert gates == [("uniform", "0.05", "0"), ("", "", ""), ("fair", "0.1", "0"), ("fair", "0.1", "5")]
    assert "gate.mode" not in rows["train/a"], "all that have one have the same"
    states = [row["state"] for row in rows.values()]
    assert states == [*["finished"] * 4, "failed", "finished", "step 15 of 22"]
    assert rows["rank/r"]["found"] == "loss: tau 0.61"
    assert rows["search/s"]["found"] == "1-0, of 9 by loss"
    assert rows["export/e"]["found"] == "2-1 of chain"
    assert ended.out.count("train/d: seed=-2: must not be negative\n") == 1


def test_an_unfinished_run_shows_its_last_evaluation(folder):
    run = find_runs(folder / "train" / "sweep" / "c")[0]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    (last,) = [line for line in lines if "overview/accuracy_mean" in line]
    assert (run.run, run.mean, run.best) == ("c", last["overview/accuracy_mean"], last["overview/accuracy_best"])
    assert run.images_per_s == [line for line in lines if "train/loss" in line][-1]["overview/images_per_s"]


def test_rows_are_picked_and_sorted(command, folder, tmp_path):
    def names(*words):
        assert command("runs", str(folder), *words, "--csv", "t.csv").status == 0
        return list(table(tmp_path / "t.csv"))

    assert names("--where", "gate=fair") == ["train/sweep/b", "train/sweep/c"]
    assert names("--where", "kind=train", "--where", "state=step*") == ["train/sweep/c"]
    assert names("--where", "space.widths=[4]", "--where", "optimizer.lr=0.05") == ["train/a"]
    seeds = ["train/a", "train/sweep/b", "train/sweep/c", "train/d"]
    assert names("--where", "kind=train", "--sort", "seed") == seeds
    assert names("--where", "kind=train", "--sort=-seed")[0] == "train/sweep/c"
    found = table(tmp_path / "t.csv")
    best = [found[name]["best"] for name in names("--sort", "best", "--where", "best=*", "--where", "kind=train")[:3]]
    assert best == sorted(best, key=float, reverse=True)
    assert len(names("--first", "2")) == 2


WRONG = [
    (("nothere",), "folder=nothere: has no runs in it; name a folder"),
    (("--where", "gat=fair"), "--where=gat: is no column and no setting of these runs; write for example gate"),
    (("--where", "gate"), "--where=gate: must read KEY=VALUE; write for example"),
    (("--where", "gate=nix"), "--where=gate=nix: holds for none of the runs; leave"),
    (("--sort", "lr"), "--sort=lr: is no column and no setting of these runs; write for example optimizer.lr"),
    (
        ("--plot", "accuracy_mean"),
        "--plot=accuracy_mean: is a curve of none of these runs; write for example --plot overview/accuracy_mean",
    ),
    (("--first", "0"), "--first=0: must be above 0; leave it out for all"),
    (("--csv", "no/such.csv"), "no/such.csv"),
    (("--topp",), "unrecognized arguments: --topp; nas-runs --help"),
]


def test_commands_of_the_page_parse():
    page = Path(__file__).parents[2] / "docs" / "sweeps.md"
    commands = [line.split("#")[0] for line in page.read_text().splitlines() if line.startswith("    nas-runs")]
    assert len(commands) == 5
    for words in commands:
        assert parser().parse_args(shlex.split(words)[1:])


def test_every_mistake_is_one_line(command, folder):
    for words, line in WRONG:
        ended = command("runs", *words) if words == ("nothere",) else command("runs", str(folder), *words)
        assert ended.status == 1
        assert ended.err.startswith(f"nas-runs: {line}"), ended.err
        assert ended.err.count("\n") == 1


def test_curves_are_named_by_what_differs(command, folder, tmp_path, monkeypatch):
    seen, draw = {}, curves.draw_curves
    monkeypatch.setattr(curves, "draw_curves", lambda charts: seen.update(charts) or draw(charts))
    ended = command(
        "runs", str(folder / "train"), "--plot", "overview/loss_val", "--plot", "train/loss", "--out", "c.png"
    )
    assert ended.out.splitlines()[-1] == "curves: c.png"
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    names = [
        f"gate={gate} optimizer.lr={lr} seed={seed}" for gate, lr, seed in (("uniform", 0.05, 0), ("fair", 0.1, 0))
    ]
    assert list(seen["overview/loss_val"]) == [*names, "gate=fair optimizer.lr=0.1 seed=5"]
    assert [step for step, _ in seen["overview/loss_val"][names[0]]] == [11, 22]


DAMAGED = {
    "report.json": ["{", "[]", '{"subnetworks": []}', "[" * 100_000, '{"images_per_s": NaN}', '{"subnetworks": 7}'],
    "card.json": ['{"accuracy": 3}', '{"accuracy": {"val": 1%s}, "network": {}}' % ("0" * 400)],
    "metrics.jsonl": ['{"step": 1}\n{"st\n{"step": 2}\n', '{"step": "x"}\n{}\n', '{"step": 1e999}\n{}\n', "7\n7\n"],
    "step_1.safetensors": ["", "\x7f" * 9, "\x02\0\0\0\0\0\0\0{}"],
    "result.json": ['{"best": 3}', '{"best": "1", "evaluated": 2, "objectives": [], "values": {"accuracy": [1]}}'],
    "journal.log": ["["],
}


def test_damaged_files_are_one_line_each(command, tmp_path):
    count = 0
    for name, contents in DAMAGED.items():
        for content in contents:
            write(tmp_path / "here" / f"{count:02}\x1b[31m", name, content)
            count += 1
    write(tmp_path / "here" / "good", "metrics.jsonl", '{"step": 3, "overview/accuracy_mean": 0.5}\n{"step": 4, "va')
    write(tmp_path / "here" / "none", "trials.csv", "")
    ended = command("runs", "here", "--csv", "runs.csv")
    assert (ended.status, ended.err) == (0, "")
    rows = table(tmp_path / "runs.csv")
    assert [row["state"] for row in rows.values()] == ["damaged"] * count + ["step 3", "finished"]
    assert all(row["why"] for name, row in rows.items() if name not in ("good", "none"))
    assert "\x1b" not in ended.out


def test_the_table_needs_no_torch(folder):
    code = "import sys; from nas.cli.runs import main; main(); print(*sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "matplotlib", "hydra", "optuna", "tensorboard"} & set(ended.stderr.split())
    help_text = subprocess.run([sys.executable, "-m", "nas.cli.runs", "--help"], capture_output=True, text=True).stdout
    assert max(map(len, help_text.splitlines())) <= 120


def test_a_legend_says_what_the_drawn_runs_differ_in(tmp_path, monkeypatch):
    charts = []
    monkeypatch.setattr(curves, "draw_curves", lambda found: charts.append(found) or b"")
    runs = []
    for name, tag, lr, long in (("a", "loss", 0.1, "x"), ("b", "loss", 0.2, "x"), ("c", "other", 0.2, "y" * 99)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps({"step": 1, tag: 2.0}) + "\n")
        runs.append(FoundRun(name, "train", tmp_path / name, "finished", settings={"lr": lr, "long": long}))
    curves.drawn(runs, ["loss"], print)
    assert charts[0] == {"loss": {"lr=0.1": [(1, 2.0)], "lr=0.2": [(1, 2.0)]}}
    (tmp_path / "c" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    curves.drawn(runs, ["loss"], print)
    assert list(charts[1]["loss"]) == ["a", "b", "c"], "what they differ in is too long"
