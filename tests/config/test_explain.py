"""A wrong command line is answered with one line: what was given, the rule, the remedy."""

import re

from hydra.errors import MissingConfigException
from support.command_lines import answer

from nas.config import explain, explain_flags
from nas.config.compose import swept

WRONG = {
    # unknown
    "+foo=1": r"foo=1: there is no setting foo; choose one of space, .*; --cfg job prints .*",
    "+train.foo=1": r"train\.foo=1: there is no setting train\.foo; choose one of epochs, .*; --cfg job prints .*",
    "++space.foo=1": r"space\.foo=1: there is no setting space\.foo; choose one of branches, width; --cfg .*",
    "hydra.foo=1": r"hydra\.foo=1: there is no setting hydra\.foo; choose one of .*",
    "space=foo": r"space=foo: there is no such choice; "
    "choose one of cell, chain, custom, macro, model, residual, two_branch",
    "data=imagenet": r"data=imagenet: there is no such choice; choose one of arrays, cifar10, cifar100, digits, .*",
    # of the wrong type
    "train.epochs=many": r"train\.epochs=many: must be a whole number; .*",
    "train.epochs=1.5": r"train\.epochs=1\.5: must be a whole number; .*",
    "seed=null": r"seed=null: must be a whole number; .*",
    "optimizer.lr=fast": r"optimizer\.lr=fast: must be a number; .*",
    "optimizer.lr=": r"optimizer\.lr=: must be a number; .*",
    "data.flip=perhaps": r"data\.flip=perhaps: must be true or false; .*",
    "run=[a]": r"run=\[a\]: must be a name or a text; .*",
    "space=chain space.widths=3": r"space\.widths=3: must be a list of whole numbers, as in \[1,2\]; .*",
    "space=chain space.widths=[a]": r"space\.widths=\[a\]: Value 'a' .*; .*",
    "space=chain space.candidates=skip": r"space\.candidates=skip: must be a list of names, as in \[a,b\]; .*",
    "space=chain space.candidates=[[skip]]": r"space\.candidates=\[\['skip'\]\]: must be names of operations.*; .*",
    "space=custom space.kwargs=3": r"space\.kwargs=3: must be names with values, as in .*",
    "space=model space.gated=[a]": r"space\.gated=\[a\]: must be names with lists of candidates, as in \{layer.*",
    "space=model space.gated.a=keep": r"space\.gated\.a=keep: must be names with lists of candidates, as in .*",
    "train=3": r"train=3: is a group of settings, set one by one as train\.NAME=VALUE; .*",
    "space=null": r"the command line: Config group override must be a string.*; .*",
    # out of range
    "train.epochs=0": r"train\.epochs=0: must be above 0 and finite; write for example train\.epochs=20",
    "train.batch_size=1": r"train\.batch_size=1: must be at least 2: .*; write for example train\.batch_size=64",
    "optimizer.lr=-1": r"optimizer\.lr=-1\.0: must be above 0 and finite; write for example optimizer\.lr=0\.05",
    "optimizer.lr=nan": r"optimizer\.lr=nan: must be above 0 and finite; write for example optimizer\.lr=0\.05",
    "optimizer.lr=inf": r"optimizer\.lr=inf: must be above 0 and finite; .*",
    "train.warmup_epochs=nan": r"train\.warmup_epochs=nan: must not be negative, and finite; .*",
    "data.val_fraction=1": r"data\.val_fraction=1\.0: must lie in \[0, 1\); .*",
    "data.val_fraction=0": r"data\.val_fraction=0\.0: must be above 0: .*; .*",
    "seed=-1": r"seed=-1: must not be negative; write for example seed=1",
    "train.epochs=1,2": r"train\.epochs=1,2: is several values; add -m for a run of each, or write a list .*",
    "train.schedule=linear": r"train\.schedule=linear: must be one of cosine, onecycle, constant, or your own as in .*",
    "data=synthetic data.classes=1": r"data\.classes=1: must be at least 2; .*",
    "space=chain space.widths=[16]": r"space\.widths, depths, strides=\[16\], .*: .* one entry a stage; write .*",
    "space=chain space.candidates=[]": r"space\.candidates=\[\]: must be names of operations, at least one; .*",
    "run=a/b": r"run=a/b: must be a plain name .*; .* hydra\.run\.dir=PATH .*",
    "run=..": r"run=\.\.: must be a plain name .*",
    "run=": r"run=: must be a plain name .*",
    "space=custom space.factory=net": r"space\.factory=net: must read package\.module:callable; write .*",
    "space=custom space.factory=.net:Net": r"space\.factory=\.net:Net: must read package\.module:callable; write .*",
    # not given
    "gate=fixed": r"gate\.architecture=\?\?\?: must be given; write gate\.architecture=VALUE",
    "data=folder": r"data\.root=\?\?\?: must be given; write data\.root=VALUE",
    "space=custom": r"space\.factory=\?\?\?: must be given; write space\.factory=VALUE",
    # malformed
    "train.epochs": r"train\.epochs: is not of the form key=value; write train\.epochs=VALUE",
    "space.widths=[1,2": r"space\.widths=\[1,2: is not of the form key=value; put quotes around .*",
    "run=a=b": r"run=a=b: is not of the form key=value; put quotes around .*",
    "run=${nothing}": r"run=\$\{nothing\}: Interpolation key 'nothing' not found; put quotes and a backslash .*",
    "~train.epochs": r"~train\.epochs: .* does not support deletion; to change a setting write KEY=VALUE",
    "~foo": r"the command line: Could not delete from config\. 'foo' does not exist\.; .*",
    "gate=uniform,fair": r"gate=uniform,fair: is several values; add -m for a run of each, .*",
    "+space=chain": r"\+space=chain: is chosen already; write it without the \+",
}


def test_a_wrong_command_line_is_one_line():
    for words, expected in WRONG.items():
        line = answer("train", words.split())
        assert re.fullmatch(expected, line), (words, line)


FLAGS = {
    "--frobnicate": "--frobnicate: there is no such flag; --hydra-help lists them",
    "seed=1 -x": "-x: there is no such flag; --hydra-help lists them",
    "--cfg seed": r"--cfg/-c: invalid choice: 'seed' .*; --hydra-help lists the flags",
    "--cfg": r"--cfg/-c: expected one argument; --hydra-help lists the flags",
    "gate=fair -m seed=1,2": "seed=1,2: stands behind a flag and other settings; write flags such as -m first",
}


def test_a_wrong_flag_is_one_line():
    for words, expected in FLAGS.items():
        line = explain_flags(words.split())
        assert line is not None, words
        assert re.fullmatch(expected, line), line


def test_right_flags_are_left_to_hydra():
    for words in "", "seed=1", "-m seed=1,2", "--cfg job", "--help", "seed=1 -m", "-c job seed=1":
        assert explain_flags(words.split()) is None, words


def test_a_missing_launchers_line_names_its_extra():
    for name in "joblib", "submitit_local", "submitit_slurm":
        error = MissingConfigException("", f"hydra/launcher/{name}", ["basic"])
        rule = "needs packages that are not installed; pip install 'gated-nas[sweep]'"
        assert explain(error, [f"hydra/launcher={name}"]) == f"hydra/launcher={name}: {rule}"
    unknown = explain(MissingConfigException("", "hydra/launcher/ray", ["basic"]), ["hydra/launcher=ray"])
    assert unknown == "hydra/launcher=ray: there is no such choice; choose one of basic"


def test_a_swept_run_is_named_by_its_overrides():
    given = ["-m", "gate=uniform,fair", "data.root=a.zip,b.zip", "seed=1", "data.flip=false", "run=x"]
    overrides = ["data.flip=False", "gate=fair", "data.root=a.zip", "seed=1", "run=x"]
    assert swept(overrides, given) == "gate=fair,data.root=a.zip"
    assert swept([*overrides, "space.width=2"], given).endswith(",space.width=2")  # from hydra.sweeper.params
    assert swept(["seed=1"], given) == "run"
    launched = ["-cd", "/my/conf", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *given[1:]]
    assert swept(overrides, launched) == "gate=fair,data.root=a.zip"


def test_different_runs_have_different_names_of_folders():
    words = ["data.root=/a.zip", "data.root=_a.zip", "space.kwargs={a: 1}", "space.kwargs={a:1}"]
    words += ['space.kwargs={"a": 1}', "x=*", "x=?", "x=|", "x=\n", "x=\\", "x=a b", "x=~"]
    words += [f"space.factory={name}" for name in ("a" * 300, "a" * 301, "ä" * 150)]
    names = [swept([word], []) for word in words]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[\w.,=+\-\[\]]+", name)
        assert len(name.encode()) <= 143


def test_lists_can_be_read_in_a_runs_folder():
    assert swept(["space.widths=[8,16]", "seed=1"], ["space.widths=[8,16],[4]", "seed=1"]) == "space.widths=[8,16]"
