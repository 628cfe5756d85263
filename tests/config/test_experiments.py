"""Each file in conf/experiment and conf/debug composes with the command that its comment gives; so does one's own."""

import re
import shlex
from pathlib import Path

from hydra import compose, initialize_config_dir

from nas.config import conf_folder, register, settings_from
from nas.config.compose import VERBS

FILES = sorted(path for kind in ("experiment", "debug") for path in (Path(conf_folder()) / kind).glob("*.yaml"))


def composed(command):
    """Settings of the first run of a command as it stands in a comment."""
    program, *words = shlex.split(command.replace("torchrun --nproc-per-node=2 -m nas.cli.train", "nas-train"))
    verb = program.removeprefix("nas-")
    words = [re.sub(r"=([^\[,]+),.*", r"=\1", word) for word in words if word != "-m"]
    register()
    with initialize_config_dir(conf_folder(), version_base="1.3"):
        return settings_from(compose(verb, words), type(VERBS[verb]))


def test_every_experiment_composes_with_its_own_command():
    assert len(FILES) > 10
    for path in FILES:
        text = path.read_text()
        commands = re.findall(r"^#     ((?:nas-|torchrun).*)$", text, re.MULTILINE)
        assert commands, path
        for command in commands:
            assert re.search(rf" \+{path.parent.name}=\[?(\w+,)*{path.stem}\b", command), path
            found = composed(command)
            if own := re.search(r"^run: (.*)$", text, re.MULTILINE):
                assert found.run == own[1] == path.stem, path


def test_an_experiment_sets_what_it_says():
    found = composed("nas-train +experiment=chain_fair_6 seed=2")
    assert (found.space.widths, found.gate.name, found.data.name) == ([8, 16], "fair", "cifar10")
    assert (found.train.epochs, found.train.batch_size, found.optimizer.lr, found.seed) == (6, 64, 0.1, 2)


def test_words_beside_an_experiment_win():
    found = composed("nas-train +experiment=cifar10_chain gate=uniform data=folder data.root=x.zip train.epochs=2")
    assert (found.gate.name, found.data.root, found.train.epochs) == ("uniform", "x.zip", 2)


def test_an_experiment_reads_what_the_last_one_writes():
    supernet = composed("nas-train +experiment=chain_uniform_96")
    search = composed("nas-search +experiment=chain_search")
    assert search.checkpoint == f"outputs/train/{supernet.run}/seed=0"
    assert composed("nas-export +experiment=chain_export").search == f"outputs/search/{search.run}"
    alone = composed("nas-train +experiment=chain_alone")
    assert alone.search == f"outputs/search/{search.run}"
    assert (alone.space, alone.data) == (supernet.space, supernet.data)
