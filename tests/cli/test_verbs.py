"""Help, the printed config, sweeps, and what must not be imported for them."""

import subprocess
import sys
from pathlib import Path

from nas.config import conf_folder
from nas.config.compose import SCHEMAS

IMPORTED = """
import sys
from nas.cli.{verb} import main
sys.argv = ["nas-{verb}", *{words!r}]
try:
    main()
finally:
    print("HEAVY:", sorted({{"torch", "sklearn", "rich", "tensorboard"}} & set(sys.modules)), file=sys.stderr)
"""


def run_in_a_process(verb, *words):
    code = IMPORTED.format(verb=verb, words=list(words))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr


def test_help_names_every_group_and_choice_without_torch():
    out, err = run_in_a_process("train", "--help")
    assert err == "HEAVY: []\n"
    words = out.replace("=", "= ").split()
    for group in SCHEMAS:
        assert f"{group}=" in words
        for path in (Path(conf_folder()) / group).glob("*.yaml"):
            assert path.stem in words, path
    assert max(map(len, out.splitlines())) <= 120


def test_config_is_printed_without_torch():
    out, err = run_in_a_process("train", "--cfg", "job", "space=chain", "train.epochs=7")
    assert err == "HEAVY: []\n"
    assert "epochs: 7" in out
    assert "name: chain" in out


def test_shell_completion_is_without_torch(tmp_path):
    code = IMPORTED.format(verb="train", words=["--shell-completion", "query=bash"])
    environment = {"COMP_LINE": "nas-train space=", "COMP_POINT": "16", "PATH": "/usr/bin:/bin"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert ended.stderr == "HEAVY: []\n"
    assert "space=two_branch" in ended.stdout


def test_bench_has_help_without_torch():
    out, err = run_in_a_process("bench", "--help")
    assert err == "HEAVY: []\n"
    assert "suite=gating" in out


def test_a_sweep_makes_a_readable_folder_a_run(nas_train, tiny, tmp_path):
    ended = nas_train("-m", *tiny, "gate=uniform,fair", "seed=1,2", "run=sweep")
    assert (ended.status, ended.err) == (0, "")
    folders = sorted(path for path in (tmp_path / "outputs" / "train" / "sweep").iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == [
        f"gate={gate},seed={seed}" for gate in ("fair", "uniform") for seed in (1, 2)
    ]
    for folder in folders:
        assert list(folder.glob("step_*.pt"))
        assert (folder / "report.json").is_file()
    assert ended.out.count("TensorBoard: tensorboard --logdir ") == 4
