"""A mistyped command line is answered with what was probably meant."""

from support.command_lines import answer

from nas.config.meant import _having
from nas.config.verbs import VERBS

MEANT = {
    # a group or a key
    "train spcae=chain": "spcae=chain: there is no setting spcae; did you mean space?",
    "train train.epoch=3": "train.epoch=3: there is no setting train.epoch; did you mean train.epochs?",
    "train trian.epochs=3": "trian.epochs=3: there is no setting trian.epochs; did you mean train.epochs?",
    "train +train.epoch=3": "train.epoch=3: there is no setting train.epoch; did you mean train.epochs?",
    "train evaluate.every=1": "{}: there is no setting evaluate.every; did you mean evaluate.every_epochs?",
    "search search.trian.epochs=3": "{}: there is no setting search.trian.epochs; did you mean search.train.epochs?",
    "rank truht=x": "truht=x: there is no setting truht; did you mean truth?",
    "score threds=1": "threds=1: there is no setting threds; did you mean threads?",
    "export onxx=true": "onxx=true: there is no setting onxx; did you mean onnx?",
    "bench suit=jac": "suit=jac: there is no setting suit; did you mean suite?",
    # where it stands
    "train epochs=3": "epochs=3: there is no setting epochs; did you mean train.epochs?",
    "train train.lr=0.1": "train.lr=0.1: there is no setting train.lr; did you mean optimizer.lr?",
    "train batch_size=3": "{}: there is no setting batch_size; did you mean evaluate.batch_size or train.batch_size?",
    "train widths=[8]": "widths=[8]: there is no setting widths; did you mean space.widths? *residual have it",
    "search epochs=3": "epochs=3: there is no setting epochs; did you mean search.train.epochs?",
    "search train.epochs=3": "train.epochs=3: there is no setting train.epochs; did you mean search.train.epochs?",
    "search limit.flops=3": "limit.flops=3: there is no setting limit.flops; did you mean search.limit?",
    # of another choice, or another command
    "train gate.architecture=1": "{}: gate=uniform has no setting architecture; gate=fixed has it",
    "train space.widths=[8]": "space.widths=[8]: space=two_branch has no setting widths; *residual have it",
    "train data.root=x": "{}: data=digits has no setting root; *data=cifar100, data=folder, data=arrays have it",
    "search space.widths=[8]": "space.widths=[8]: no space is chosen; *residual have widths",
    "export train.epochs=3": "train.epochs=3: there is no setting train.epochs; nas-train has it",
    "search gate=fair": "gate=fair: this command has no group gate; --help lists its groups and experiments",
    "train +experiment=cell_proxies": "{}: there is no setting proxies; nas-score, nas-rank have it",
    "search +experiment=chain_fair_6": "{}: this command has no group gate; --help lists its groups and experiments",
    # a choice or a value
    "train space=chian": "space=chian: there is no such choice; did you mean chain?",
    "train +experiment=chain_fari_6": "{}: there is no such choice; did you mean chain_fair_6?",
    "train experiment=chain_fair_6": "{}: is a file that changes others; write a + before it, +experiment=chain_fair_6",
    "train train.schedule=cosin": "{}: must be one of cosine, *; did you mean cosine?",
    "rank predictors=[los]": "predictors=los: must be one of loss, *, surrogate; did you mean loss?",
    "train track.writers=[tensorbord]": "track.writers=tensorbord: must be of *; did you mean tensorboard?",
}


def test_a_line_says_what_was_meant():
    for command, expected in MEANT.items():
        verb, *words = command.split()
        line = answer(verb, words)
        begin, _, end = expected.replace("{}", words[0].lstrip("+")).partition("*")
        assert line.startswith(begin), (command, line)
        assert line.endswith(end) if end else line == begin, (command, line)


def test_every_key_of_another_choice_is_known():
    """Only what all choices have, and no name that a command line cannot set, is without a choice."""
    found = _having(type(VERBS["train"]))
    assert found["gate.architecture"] == ["fixed"]
    assert found["gate.lr"] == ["learned"]
    assert found["train.epochs"] == []
    assert not any(key.endswith(".name") for key in found)
