"""``nas-rank`` from the command line."""

import os
import re
import signal

import pytest
import torch
from support.runs import CHAIN, finish, tiny

from nas.space import build_space

SPACE = build_space(CHAIN, 3, 16, 3)
QUIET = ("rank.progress=false", "rank.tensorboard=false", "rank.proxy_images=8", "rank.threads=1")
OF_CHAIN = ("space=chain", "space.widths=[4]", "space.depths=[2]", "space.strides=[1]")
DATA = ("data=synthetic", "data.size=100", "data.image_size=16", "data.classes=3", "data.crop=2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained supernet, and a benchmark table for its space."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("rank")
    finish(tiny(), place / "trained")
    rows = [f"{SPACE.encode(a)},{40 + 5 * sum(a)},{41 + 4.9 * sum(a)}" for a in SPACE.enumerate()]
    (place / "table.csv").write_text("\n".join(["architecture,a,b", *rows]) + "\n")
    return place


def test_a_checkpoint_is_ranked_and_everything_is_written(nas_rank, made, tmp_path):
    words = (f"checkpoint={made}/trained", f"truth={made}/table.csv", "proxies=[naswot]", *QUIET)
    status, out, err = nas_rank(*words, "run=first")
    assert (status, err) == (0, "")
    folder = tmp_path / "outputs" / "rank" / "first"
    assert {"rank.csv", "predictions.csv", "report.json", "scatter.png", "journal.jsonl"} <= {
        path.name for path in folder.iterdir()
    }
    for name in ("loss_running", "loss + parameters", "naswot", "flops", "a perfect predictor"):
        assert name in out
    assert out.startswith("9 architectures against the mean of 2 trainings each, 40.5% to 60.3%")  # no progress
    assert re.search(r"The supernet's .* ranks .* than the parameter count .*\(difference of tau ", out)
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
    learns = ("predictors=[surrogate]", "rank.trainings=4")
    status, out, err = nas_rank(*OF_CHAIN, candidates, table, *learns, *QUIET)
    assert (status, err) == (0, "")
    assert "naswot" not in out
    assert "surrogate, 4 trainings" in out
    assert "A regression on 4 trainings ranks" in out


def test_a_supernet_of_other_images_is_warned_of(nas_rank, made):
    text = (made / "table.csv").read_text()
    (made / "cifar.csv").write_text('# settings: {"data": {"name": "cifar10"}}\n' + text)
    words = (f"checkpoint={made}/trained", f"truth={made}/cifar.csv", "predictors=[loss]", *QUIET)
    status, _, err = nas_rank(*words)
    assert status == 0
    assert re.fullmatch(r"nas-rank: checkpoint=.*: was trained on data=synthetic, .* on data=cifar10; train .*\n", err)


def test_a_stop_says_how_to_go_on(nas_rank, made, monkeypatch):
    monkeypatch.setattr("nas.rank.predict", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    status, out, err = nas_rank(f"checkpoint={made}/trained", f"truth={made}/table.csv", *QUIET, "run=first")
    assert (status, err) == (130, "")
    assert re.fullmatch(r"stopped by SIGINT, predictions so far are kept; to go on: nas-rank .* run=first\n", out)


WRONG = {
    "checkpoint=gone": r"checkpoint=gone: does not exist; name the folder of a run of nas-train",
    "checkpoint=HERE/trained truth=gone.csv": r"truth=gone\.csv: there is no file gone\.csv; write truth=own .*",
    "checkpoint=HERE/trained truth=HERE/misfit.csv": r"truth=.*: 2 of 3 architectures do not fit space chain, first .*",
    "checkpoint=HERE/trained proxies=[foo]": r"proxies=foo: is not a proxy; choose one of jacob_cov, .*",
    "checkpoint=HERE/trained predictors=[loss,surrogate] rank.trainings=8": (
        r"rank\.trainings=8: leaves 1 of 9 architectures to predict; write at most 7"
    ),
    "rank.trainings=3": r"rank\.trainings=3: must be at least 4: a regression learns from them; .*",
    "predictors=[surrogate] rank.features=[choices,supernet]": r"rank\.features=supernet: must be one of choices, .*",
    "rank.finetune_lr=0": r"rank\.finetune_lr=0\.0: must be above 0 and finite; .*",
    "space.widths=[8]": r".*space\.widths.*",
}


def test_bad_input_is_one_line_and_leaves_nothing(nas_rank, made, tmp_path):
    (made / "misfit.csv").write_text("architecture,a\n0-0,0.5\n0-9,0.5\n1-1-1,0.5\n")
    for words, line in WRONG.items():
        given = words.replace("HERE", str(made)).split()
        truth = [] if "truth=" in words else [f"truth={made}/table.csv"]
        status, out, err = nas_rank(*truth, *QUIET, *given)
        assert (status, out) == (1, ""), words
        assert re.fullmatch(rf"nas-rank: {line}\n", err), err
        assert list(tmp_path.iterdir()) == [], words
