"""README tells the truth: its examples run, its commands compose, its tree and pictures exist."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from nas.config import conf_folder, register, settings_from
from nas.settings import ExportSettings, RankRunSettings, ScoreSettings, SearchRunSettings, TrainRunSettings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
VERBS = {
    "train": TrainRunSettings,
    "score": ScoreSettings,
    "search": SearchRunSettings,
    "rank": RankRunSettings,
    "export": ExportSettings,
}
COMMANDS = [
    line.split("#")[0].strip().removeprefix("$ ")
    for line in README.replace("\\\n", " ").splitlines()
    if re.match(rf"    (\$ )?nas-({'|'.join(VERBS)}) ", line)
]
COMMANDS += [
    "nas-train " + line.split("#")[0].partition("nas.cli.train ")[2]
    for line in README.replace("\\\n", " ").splitlines()
    if re.match(r"    (\$ )?torchrun ", line)
]


def test_the_examples_run(tmp_path, monkeypatch):
    network, use = EXAMPLES[:2]
    (tmp_path / "my_net.py").write_text(network)
    monkeypatch.chdir(tmp_path)
    names = {"torch": torch}
    exec(compile(use, "README", "exec"), names)
    assert not any("Gated" in type(module).__name__ for module in names["plain"].modules())


@pytest.mark.parametrize("question", EXAMPLES[2:], ids=("determinant", "jacobian", "gram"))
def test_the_three_questions_have_their_calls(question):
    names = {}
    exec(compile(question, "README", "exec"), names)
    if "net" in names and "K" not in names:
        assert all(p.grad is None or p.grad.isfinite().all() for p in names["net"].parameters())
        assert names["net"][0].weight.grad.abs().sum() > 0
    if "G" in names:
        assert names["G"].shape == (8, 5, 5)
        assert names["K"].shape == (4, 4, 10, 10)


def test_the_users_network_takes_ten_lines():
    lines = [line for line in EXAMPLES[0].splitlines() if line.strip() and "import" not in line]
    assert len(lines) <= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_compose(command):
    name, *words = (word for word in shlex.split(command) if not word.startswith("-"))
    verb = name.removeprefix("nas-")
    register()
    with initialize_config_dir(conf_folder(), version_base="1.3"):
        for first in (0, -1):  # of a sweep: its first and its last run
            overrides = []
            for word in words:
                key, _, value = word.partition("=")
                swept = "-m" in command and "," in value and "[" not in value
                overrides.append(f"{key}={value.split(',')[first]}" if swept else word)
            config = compose(verb, [*overrides, "run=readme"])
            assert isinstance(settings_from(config, VERBS[verb]), VERBS[verb])


def test_there_are_commands_of_every_verb():
    assert len(COMMANDS) >= 15
    assert sum("run=two" in command for command in COMMANDS) >= 2  # of torchrun
    assert {command.split()[0].removeprefix("nas-") for command in COMMANDS} == set(VERBS)


def test_the_scripts_are_what_the_readme_calls():
    for script in re.findall(r"bash (scripts/\S+\.sh)", README):
        assert subprocess.run(["bash", "-n", ROOT / script], check=False).returncode == 0


def test_the_tree_and_the_pictures_exist():
    tree = README.split("## The tree")[1]
    folder = ROOT
    for line in tree.splitlines():
        if match := re.match(r"    (  )?([\w.]+/?)\s+\S", line):
            if not match[1]:
                folder = ROOT / match[2]
            assert match[2] == "outputs/" or (folder / match[2] if match[1] else folder).exists(), line
    for picture in re.findall(r"!\[.*?\]\((\S+)\)", README):
        assert (ROOT / picture).is_file(), picture


def test_nothing_is_left_to_fill_in():
    assert "@@" not in README
