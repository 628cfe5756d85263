"""Help and the printed config of every verb, and what must not be imported for them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import nas
from nas.cli.torchrun import same_command
from nas.config import conf_folder
from nas.config.compose import SCHEMAS
from nas.errors import SettingError

IMPORTED = """
import sys
from importlib import import_module
for verb, *words in {commands!r}:
    sys.argv = ["nas-" + verb, *words]
    print("COMMAND", *sys.argv)
    try:
        import_module("nas.cli." + verb).main()
    except SystemExit as stop:
        assert not stop.code, verb
heavy = {{"torch", "sklearn", "rich", "tensorboard", "optuna", "scipy", "matplotlib"}}
print("HEAVY:", sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
VERBS = "bench", "export", "rank", "score", "search", "train"


@pytest.fixture(scope="module")
def printed():
    """What each verb prints for --help, by its command line; also for some others, all in one fresh process."""
    commands = [(verb, "--help") for verb in VERBS]
    commands.append(("train", "--cfg", "job", "space=chain", "train.epochs=7"))
    commands += [(verb, "--version") for verb in (*VERBS, "runs")]
    code = IMPORTED.format(commands=commands)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "HEAVY: []\n")
    parts = re.split(r"^COMMAND (.*)\n", ended.stdout, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_help_of_every_verb_fits_and_shows_examples(printed):
    for verb in VERBS:
        out = printed[f"nas-{verb} --help"]
        assert out.count(f"nas-{verb}") > 3
        assert max(map(len, out.splitlines())) <= 120


def test_help_names_every_group_and_choice(printed):
    words = printed["nas-train --help"].replace("=", "= ").split()
    for group in SCHEMAS:
        assert f"{group}=" in words
        for path in (Path(conf_folder()) / group).glob("*.yaml"):
            assert path.stem in words, path
    for word in ("loss_tuned", "accuracy_running", "truth=mine.csv", "data=", "space="):
        assert word in printed["nas-rank --help"]


def test_every_file_is_in_the_help_of_its_command(printed):
    for kind in "experiment", "debug":
        for path in (Path(conf_folder()) / kind).glob("*.yaml"):
            verbs = re.findall(r"^#     .*?nas[-.](?:cli\.)?(\w+)", path.read_text(), re.MULTILINE)
            for verb in VERBS:
                listed = re.search(rf"^  \+{kind}={path.stem} +\w.+", printed[f"nas-{verb} --help"], re.MULTILINE)
                assert bool(listed) == (verb in verbs), (verb, path)


def test_every_verb_says_its_version(printed):
    for verb in (*VERBS, "runs"):
        expected = rf"gated-nas {nas.__version__}, torch \d[\w.+]+, python 3\.\d[\w.+]+\n"
        assert re.fullmatch(expected, printed[f"nas-{verb} --version"]), verb


def test_the_config_is_printed_with_what_was_given(printed):
    out = printed["nas-train --cfg job space=chain train.epochs=7"]
    assert "epochs: 7" in out
    assert "name: chain" in out
    assert "batch_size: 64" in out


def test_shell_completion_is_without_torch(tmp_path):
    code = IMPORTED.format(commands=[("train", "--shell-completion", "query=bash")])
    environment = {"COMP_LINE": "nas-train space=", "COMP_POINT": "16", "PATH": "/usr/bin:/bin"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ended.stderr == "HEAVY: []\n"
    assert "space=two_branch" in ended.stdout


def test_every_verb_computes_with_its_threads(command, monkeypatch, tmp_path):
    def seen(number):
        raise SettingError("threads", number, "seen", "")

    monkeypatch.setattr("torch.set_num_threads", seen)
    for verb in VERBS:
        group = {"rank": "rank.", "search": "search.", "train": "train."}.get(verb, "")
        ended = command(verb, f"{group}threads=3")
        assert (ended.status, ended.err.strip()) == (1, f"nas-{verb}: threads=3: seen;"), verb
    assert not list(tmp_path.iterdir())


def test_a_module_is_gone_on_with_as_a_module(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(Path(nas.__file__).parent / "cli" / "search.py"), "seed=1", "run=old"])
    assert re.fullmatch(r"python[\d.]* -m nas\.cli\.search seed=1 run=first", same_command("first"))
