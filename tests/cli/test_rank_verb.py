"""``nas-rank`` from the command line."""

import re
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from support.runs import CHAIN, finish, tiny

from nas.cli.rank import main
from nas.config import conf_folder, register, settings_from
from nas.settings import RankRunSettings, RankSettings
from nas.space import build_space

SPACE = build_space(CHAIN, 3, 16, 3)
QUIET = ("rank.progress=false", "rank.tensorboard=false", "rank.proxy_images=8", "rank.threads=1")
OF_CHAIN = ("space=chain", "space.widths=[4]", "space.depths=[2]", "space.strides=[1]")
DATA = ("data=synthetic", "data.size=100", "data.image_size=16", "data.classes=3", "data.crop=2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained supernet, and a table of truth for its space."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("rank")
    finish(tiny(), place / "trained")
    rows = [f"{SPACE.encode(a)},{40 + 5 * sum(a)},{41 + 4.9 * sum(a)}" for a in SPACE.enumerate()]
    (place / "table.csv").write_text("\n".join(["architecture,a,b", *rows]) + "\n")
    return place


@pytest.fixture
def nas_rank(tmp_path, monkeypatch, capsys):
    """Run ``nas-rank`` with these words in an empty folder; its status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["nas-rank", *words])
        capsys.readouterr()
        status = 0
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                main()
            except SystemExit as stop:
                status = stop.code
        return status, *capsys.readouterr()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_checkpoint_is_ranked_and_everything_is_written(nas_rank, made, tmp_path):
    words = (f"checkpoint={made}/trained", f"truth={made}/table.csv", "proxies=[naswot,synflow]", "weights=2", *QUIET)
    status, out, err = nas_rank(*words, "run=first")
    assert (status, err) == (0, "")
    folder = tmp_path / "outputs" / "rank" / "first"
    assert {"rank.csv", "predictions.csv", "report.json", "scatter.png", "journal.jsonl"} <= {
        path.name for path in folder.iterdir()
    }
    for name in ("loss_running", "loss + parameters", "naswot", "flops", "a perfect predictor"):
        assert name in out
    assert "9 architectures against the mean of 2 trainings each, 40.5% to 60.3%" in out
    assert re.search(r"The supernet's .* ranks .* than the parameter count \(difference of tau ", out)
    assert "…" not in out
    journal = (folder / "journal.jsonl").read_bytes()
    report = (folder / "report.json").read_bytes()
    status, again, err = nas_rank(*words, "run=first")
    assert (status, err, again) == (0, "", out)
    assert (folder / "journal.jsonl").read_bytes() == journal
    assert (folder / "report.json").read_bytes() == report


def test_without_a_checkpoint_proxies_and_sizes_are_ranked(nas_rank, made):
    table = f"truth={made}/table.csv"
    candidates = "space.candidates=[skip,conv1,conv3]"
    status, out, err = nas_rank(
        *OF_CHAIN, candidates, *DATA, table, "proxies=[naswot]", "rank.sum=[naswot,flops]", *QUIET
    )
    assert (status, err) == (0, "")
    assert "naswot + flops" in out
    assert "supernet" not in out
    status, out, err = nas_rank(*OF_CHAIN, candidates, table, *QUIET)
    assert (status, err) == (0, "")
    assert "naswot" not in out


WRONG = {
    "checkpoint=gone": r"checkpoint=gone: does not exist; name the folder of a run of nas-train",
    "checkpoint=HERE/trained truth=gone.csv": r"truth=gone\.csv: there is no file gone\.csv; write truth=own .*",
    "checkpoint=HERE/trained truth=HERE/misfit.csv": r"truth=.*: 2 of 3 architectures do not fit space chain, first .*",
    "checkpoint=HERE/trained space=macro": r"space=given: a checkpoint has its own; leave space out, or .*",
    "checkpoint=HERE/trained predictors=[foo]": r"predictors=foo: must be one of loss, accuracy, .*",
    "checkpoint=HERE/trained proxies=[foo]": r"proxies=foo: is not a proxy; there are jacob_cov, .*",
    "checkpoint=HERE/trained rank.sum=[snip]": r"rank\.sum=snip: must be one of loss, .*",
    "checkpoint=HERE/trained proxies=[naswot] rank.proxy_images=99": r"rank\.proxy_images=99: 2 such batches .*",
    "space=macro": r"truth=.*: 9 of 9 architectures do not fit space macro, first 0-0 .*",
    "space=macro proxies=[naswot]": r"data=null: must be given: proxies look at pictures; write for example .*",
    "rank.finetune_lr=0": r"rank\.finetune_lr=0\.0: must be above 0 and finite; .*",
    "space.widths=[8]": r".*space\.widths.*",
}


@pytest.mark.parametrize("words", WRONG)
def test_bad_input_is_one_line_and_leaves_nothing(nas_rank, made, tmp_path, words):
    (made / "misfit.csv").write_text("architecture,a\n0-0,0.5\n0-9,0.5\n1-1-1,0.5\n")
    given = words.replace("HERE", str(made)).split()
    truth = [] if "truth=" in words else [f"truth={made}/table.csv"]
    status, out, err = nas_rank(*truth, *QUIET, *given)
    assert status == 1
    assert re.fullmatch(rf"nas-rank: {WRONG[words]}\n", err), err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


HELP = """
import sys
from nas.cli.rank import main
sys.argv = ["nas-rank", "--help"]
try:
    main()
finally:
    print("HEAVY:", sorted({"torch", "sklearn", "rich", "scipy", "matplotlib"} & set(sys.modules)), file=sys.stderr)
"""


def test_the_file_in_conf_says_what_the_dataclass_says():
    register()
    with initialize_config_dir(conf_folder(), version_base="1.3"):
        found = settings_from(compose("rank"), RankRunSettings)
    assert replace(found, run="x") == RankRunSettings(run="x")
    data = yaml.safe_load((Path(conf_folder()) / "rank.yaml").read_text())
    assert data.keys() - {"defaults", "hydra"} == {field.name for field in fields(RankRunSettings)} - {"space", "data"}
    assert data["rank"].keys() == {field.name for field in fields(RankSettings)}


def test_help_needs_no_torch_and_names_every_predictor():
    ended = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "HEAVY: []\n")
    for word in ("loss_tuned", "accuracy_running", "truth=mine.csv", "data=", "space="):
        assert word in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 120
