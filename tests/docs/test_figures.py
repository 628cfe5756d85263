"""The tables of the pages are those of docs/data/, and figures older than their code are listed."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(script):
    spec = importlib.util.spec_from_file_location(script, ROOT / "scripts" / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


figures = load("docs_figures")
MEASURED = {path.stem: json.loads(path.read_text()) for path in (ROOT / "docs/data").glob("*.json")}
IMAGES = MEASURED.pop("images")


def test_tables_are_those_of_the_data():
    for page in figures.pages():
        assert figures.page(page.read_text()) == page.read_text(), f"{page.name}: run scripts/docs_figures.py"


def test_every_result_is_shown():
    texts = "".join(page.read_text() for page in figures.pages())
    used = {match[2].partition(".")[0] for match in figures.BLOCK.finditer(texts)}
    assert used == set(MEASURED)


def test_every_figure_says_where_it_comes_from():
    for name, data in MEASURED.items():
        missing = {"command", "commit", "date", "hardware", "n", "spread", "code"} - data["measured"].keys()
        assert not missing, name
        assert "nothing was measured" in data["measured"]["n"] or "torch" in data["measured"], name
    assert set(IMAGES) == {path.name for path in (ROOT / "docs").glob("*.png")}
    for name, measured in [*IMAGES.items(), *((name, data["measured"]) for name, data in MEASURED.items())]:
        for path in measured["code"]:
            assert (ROOT / path).exists(), f"{name}: {path}"


def test_results_as_benches_leave_them_are_drawn():
    ratio = {"median": 1.234, "low": 1.2, "high": 1.3, "rounds": 9, "ms": 5.0}
    row = {"network": "net", "what": "gated", "ratios": {"2": ratio}, "bars": {"2": 1.5}, "bound": "at most"}
    head = ["", "K = 2"]
    assert figures.ratios({"rows": [row]}) == [head, ["**net**"], ["gated", "1.23 ±0.05"], ["- at most", "1.50"]]
    both = {
        "rows": [row | {"ratios": {"gated": ratio}, "bars": {}}],
        "columns": {"alone": "stand-alone", "gated": "gated"},
    }
    assert figures.ratios(both) == [["", "stand-alone", "gated"], ["**net**"], ["gated", "", "1.23 ±0.05"]]
    once = {"network": "net", "what": "memory", "median": 0.2, "low": 0.2, "high": 0.2, "rounds": 1}
    once |= {"taken": 26.3, "baseline": 131.0, "unit": "MB", "bar": 32.0, "bar_of": "taken", "compares": False}
    assert figures.costs({"rows": [once]})[-1] == ["memory", "0.20", "32 MB", "26.3 MB", "131 MB"]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A clone with one page, one figure and the code that it measures; and a function that runs git in it."""
    (tmp_path / "docs/data").mkdir(parents=True)
    (tmp_path / "code.py").write_text("1")

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    measured = {
        "command": "measure",
        "commit": git("rev-parse", "HEAD"),
        "date": "2026-01-01",
        "hardware": "a computer",
    }
    measured |= {"n": "once", "spread": "", "code": ["code.py"]}
    data = {"measured": measured, "kind": "rows", "result": {"columns": ["a"], "rows": [["1"]]}}
    (tmp_path / "docs/data/figure.json").write_text(json.dumps(data))
    (tmp_path / "README.md").write_text("before\n<!-- table: figure -->\n<!-- /table -->\nafter\n")
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    monkeypatch.setattr(figures, "DATA", tmp_path / "docs/data")
    return tmp_path, git


def test_figures_older_than_their_code_are_listed(repository):
    folder, git = repository
    assert figures.outdated() == []
    (folder / "code.py").write_text("2")
    git("commit", "-qam", "second")
    (line,) = figures.outdated()
    assert line.startswith("figure: 1 newer commits in code.py; measure")


def test_a_new_result_replaces_the_old(repository, monkeypatch):
    folder, git = repository
    (folder / "code.py").write_text("2")
    git("commit", "-qam", "second")
    new = {"columns": ["a"], "rows": [["7"]], "machine": {"cpu": "another", "torch": "9.9", "python": "3.12"}}
    (folder / "new.json").write_text(json.dumps(new))
    monkeypatch.setattr("sys.argv", ["docs_figures", "--take", "figure", str(folder / "new.json")])
    figures.main()
    text = (folder / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- /table -->\nafter\n")
    assert "| 7 |" in text
    assert "another; torch 9.9, Python 3.12" in text
    assert "| 1 |" not in text
    assert figures.outdated() == []
