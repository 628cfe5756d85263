"""Files of several settings: those for looking for mistakes, and one's own in a folder of one's own."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nas
from nas.config import conf_folder

HEAD = "# @package _global_\n"
MINE = {
    "mine": HEAD + "# My wide branches.\ndefaults: [override /gate: fair]\nspace: {width: 2}\ntrain: {epochs: 7}\n",
    "wrong": HEAD + "train: {epoch: 2}\n",
    "flat": "train: {epochs: 2}\n",
    "cut": HEAD + "train: [\n",
}
SEVERAL = """
import sys
from nas.cli.train import main
for words in (["--cfg", "job", "+experiment=mine"], ["--help"]):
    sys.argv = ["nas-train", "--config-dir=own", *words]
    main()
"""


@pytest.fixture
def own(tmp_path):
    """A folder of one's own config files, ``own`` in the working one."""
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    for name, text in MINE.items():
        (folder / f"{name}.yaml").write_text(text)
    (tmp_path / "own" / "bare.yaml").write_text("seed: 3\n")
    return tmp_path


def test_an_installed_package_finds_ones_own_files(own):
    site = own / "site"
    shutil.copytree(Path(nas.__file__).parent, site / "nas", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(conf_folder(), site / "nas" / "conf")  # as pyproject.toml lays out a wheel
    command = [sys.executable, "-c", SEVERAL]
    done = subprocess.run(command, cwd=own, env={"PYTHONPATH": str(site)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for expected in ("  name: fair\n", "  width: 2\n", "  epochs: 7\n", "+experiment=cifar10_chain ", "+debug=steps "):
        assert expected in done.stdout, expected
    assert re.search(r"  \+experiment=mine +My wide branches\n", done.stdout)


WRONG = {
    "+experiment=wrong": "experiment=wrong: there is no setting train.epoch; did you mean train.epochs?",
    "+experiment=flat": "experiment=flat: must begin with the line # @package _global_; add it to the file",
    "+experiment=cut": "{}/own/experiment/cut.yaml: is no YAML in line 3 (*); mend it",
    "+experiment=min": "experiment=min: there is no such choice; did you mean mine?",
    "--config-dir=own/bare.yaml": "*: there is no such folder; --config-dir=FOLDER names one with *",
}


def test_a_wrong_file_of_ones_own_is_one_line(nas_train, own):
    for word, expected in WRONG.items():
        ended = nas_train("--config-dir=own", word)
        line = re.escape(f"nas-train: {expected}\n".replace("{}", str(own))).replace(r"\*", ".*")
        assert (ended.status, ended.out) == (1, ""), word
        assert re.fullmatch(line, ended.err), ended.err


def test_one_batch_is_learned_by_heart(nas_train):
    quick = ("train.threads=1", "track.writers=[]", "train.epochs=90", "evaluate.every_epochs=90", "run=first")
    status, out, err = nas_train("+debug=overfit", *quick)
    assert (status, err) == (0, "")
    assert float(re.search(r"epoch 90/90  loss (\S+)", out)[1]) < 1.0  # the mean from the first step on


def test_two_steps_are_taken(nas_train):
    status, out, err = nas_train("+debug=[steps,synthetic]", "train.threads=1", "run=first")
    assert (status, err) == (0, "")
    assert ": 2 architectures, 2 steps, on cpu" in out
    assert len([*Path("outputs/train/first").glob("step_*")]) == 2
