"""What predictors say, and that nothing is computed twice."""

import json
import math
from dataclasses import replace

import pytest
import torch
from support.runs import CHAIN, finish, tiny

from nas.cost import PathFlops
from nas.errors import CheckpointError, DataError, NasError, SettingError
from nas.rank import KnownValues, Prediction, add_ranks, load_target, predict
from nas.rank import predictions as module
from nas.rank.learned import DRAWS
from nas.score import PROXIES, score
from nas.search.propose.surrogate import Surrogate
from nas.settings import ChainSettings, CustomSettings, RankRunSettings, RankSettings, SyntheticSettings
from nas.space import build_space, extract
from nas.train import evaluate

SPACE = build_space(CHAIN, 3, 16, 3)
QUIET = RankSettings(progress=False, tensorboard=False, proxy_images=8, finetune_steps=2, threads=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two trained supernets of one space, and a benchmark table for it."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("rank")
    for seed in (0, 1):
        finish(replace(tiny(), seed=seed), place / f"run{seed}")
    rows = [f"{SPACE.encode(a)},{0.4 + 0.05 * sum(a)},{0.41 + 0.049 * sum(a)}" for a in SPACE.enumerate()]
    (place / "table.csv").write_text("\n".join(["architecture,a,b", *rows]) + "\n")
    return place


def settings(made, *runs, **more):
    chosen = {"truth": str(made / "table.csv"), "rank": QUIET, "checkpoint": [str(made / run) for run in runs]}
    return RankRunSettings(**(chosen | more))


def predicted(wanted, folder):
    target = load_target(wanted)
    return target, {prediction.name: prediction for prediction in predict(target, wanted, KnownValues(folder))}


def test_a_supernets_predictions_are_its_evaluations(made, tmp_path):
    target, found = predicted(settings(made, "run0", "run1"), tmp_path)
    assert list(found) == [
        "loss", "accuracy", "loss_running", "accuracy_running", "loss + parameters", "parameters", "flops",
    ]  # fmt: skip
    for draw, trained in enumerate(target.trained):
        for how, calibration in (("", trained.calibration()), ("_running", None)):
            val = trained.batches(trained.splits.val)
            results = evaluate(trained.supernet, target.truth.architectures, val, calibration)
            assert found["accuracy" + how].values[draw].tolist() == [one.accuracy for one in results]
            assert found["loss" + how].values[draw].tolist() == pytest.approx([one.loss for one in results], rel=1e-6)
    assert found["loss"].lower_is_better
    assert not found["accuracy"].lower_is_better
    assert torch.equal(found["loss"].goodness, -found["loss"].values)


def test_a_table_of_several_open_branches_is_ranked(tmp_path):
    space = SPACE.opened([1, 2])
    names = ["1+0-2" if a == ((0, 1), 2) else space.encode(a) for a in space.enumerate()]
    (tmp_path / "table.csv").write_text("architecture,a\n" + "\n".join(f"{n},{0.01 * len(n)}" for n in names))
    wanted = {"truth": str(tmp_path / "table.csv"), "space": CHAIN, "predictors": ["surrogate"]}
    how = replace(QUIET, trainings=12, features=["choices"])
    target, found = predicted(RankRunSettings(**wanted, rank=how), tmp_path / "run")
    count = PathFlops(SPACE, target.space.supernet(), (3, 32, 32)).count
    assert found["flops"].values.tolist() == [[count(a) for a in target.truth.architectures]]
    assert found["surrogate"].values.isfinite().all()


def test_fine_tuning_and_splits_are_separate_predictions(made, tmp_path):
    plain = predicted(settings(made, "run0", architectures=4), tmp_path)[1]
    names = ["loss", "loss_tuned"]
    other = predicted(settings(made, "run0", architectures=4, predictors=names, split="test"), tmp_path)[1]
    more = replace(QUIET, finetune_steps=3)
    longer = predicted(settings(made, "run0", architectures=4, predictors=names, split="test", rank=more), tmp_path)[1]
    assert not torch.equal(plain["loss"].values, other["loss"].values)
    assert not torch.equal(other["loss_tuned"].values, other["loss"].values)
    assert torch.equal(other["loss"].values, longer["loss"].values)
    assert not torch.equal(other["loss_tuned"].values, longer["loss_tuned"].values)


def test_proxies_are_scored_on_each_weight_draw(made, tmp_path):
    wanted = settings(made, "run0", proxies=["naswot", "ntk_condition", "flops"], weights=2, architectures=3)
    target, found = predicted(wanted, tmp_path)
    assert found["naswot"].values.shape == (2, 3)
    assert found["naswot"].kind == "proxy"
    assert found["ntk_condition"].lower_is_better
    assert found["flops"].kind == "trivial"  # not asked twice
    assert [len(x) for x, _ in target.batches] == [8, 8]
    for draw in range(2):
        supernet = target.space.supernet(draw)
        for k, architecture in enumerate(target.truth.architectures):
            values = score(extract(supernet, architecture), ["naswot"], target.batches, draw).values
            assert found["naswot"].values[draw, k].item() == values["naswot"]
    assert not torch.equal(*found["naswot"].values)


def test_a_network_with_lazy_widths_can_be_ranked(tmp_path):
    net = CustomSettings(factory="support.exports:Net")
    finish(tiny(replace(tiny(), space=net)), tmp_path / "run")
    (tmp_path / "table.csv").write_text("architecture,a\n0-0,0.5\n0-1,0.6\n1-0,0.7\n")
    of_run = {"checkpoint": [str(tmp_path / "run")], "factory": "support.exports:Net"}
    data = SyntheticSettings(size=100, image_size=16, classes=3, crop=2)
    for more in (of_run, {"space": net, "data": data}, {"space": net}):
        proxies = ["naswot"] if "space" not in more or "data" in more else []
        wanted = settings(tmp_path, **{"proxies": proxies, "weights": 2, **more})
        (tmp_path / "journal.jsonl").unlink(missing_ok=True)
        found = predicted(wanted, tmp_path)[1]
        assert found["parameters"].values.shape == (1, 3)
        assert not proxies or found["naswot"].values.shape == (2, 3)


def test_sizes_are_those_of_the_extracted_networks(made, tmp_path):
    target, found = predicted(settings(made, "run0", predictors=[]), tmp_path)
    supernet = target.trained[0].supernet
    flops = PathFlops(target.space, supernet, (3, 16, 16))
    for k, architecture in enumerate(target.truth.architectures):
        count = sum(parameter.numel() for parameter in extract(supernet, architecture).parameters())
        assert found["parameters"].values[0, k] == count
        assert found["flops"].values[0, k] == flops.count(architecture)


def test_what_the_journal_has_is_not_computed_again(made, tmp_path, monkeypatch):
    wanted = settings(made, "run0", proxies=["naswot"], architectures=5)
    first = predicted(wanted, tmp_path)[1]
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 15
    (tmp_path / "journal.jsonl").write_text("\n".join(lines[:8]) + "\n" + lines[8][:20])  # killed while it wrote
    asked = []

    def watched(self, architectures):
        architectures = list(architectures)
        asked.extend(architectures)
        return original(self, architectures)

    original = module.Evaluator.__call__
    monkeypatch.setattr(module.Evaluator, "__call__", watched)
    again = predicted(wanted, tmp_path)[1]
    assert len(asked) == 3
    for name, prediction in first.items():
        assert torch.equal(prediction.values, again[name].values)
    scored = []
    monkeypatch.setattr(module, "score", lambda *given: scored.append(given[1]) or score(*given))
    more = predicted(replace(wanted, proxies=["naswot", "snip"]), tmp_path)[1]
    assert scored == [["snip"]] * 5
    assert torch.equal(more["naswot"].values, first["naswot"].values)
    assert len(asked) == 3


def test_infinities_survive_the_journal(tmp_path):
    KnownValues(tmp_path).add("k", "0-1", {"naswot": -math.inf, "synflow": 0.1 + 0.2})
    known = KnownValues(tmp_path)
    assert known.find("k", "0-1") == {"naswot": -math.inf, "synflow": 0.1 + 0.2}
    assert known.find("k", "1-1") == {}


def prediction(name, *draws, lower=False):
    return Prediction(name, "proxy", torch.tensor(draws, dtype=torch.float64), lower)


def test_ranks_are_added_draw_by_draw():
    loss = prediction("loss", [0.1, 0.3, 0.2], [0.3, 0.2, 0.1], lower=True)
    size = prediction("size", [10, 10, 30])
    total = add_ranks([loss, size])
    assert total.values.tolist() == [[3 + 1.5, 1 + 1.5, 2 + 3], [1 + 1.5, 2 + 1.5, 3 + 3]]
    assert (total.name, total.kind, total.lower_is_better) == ("loss + size", "sum", False)


def test_architectures_are_drawn_in_the_tables_order(made):
    drawn = [load_target(settings(made, "run0", architectures=5, seed=seed)).truth for seed in (0, 0, 1)]
    assert drawn[0].architectures == drawn[1].architectures != drawn[2].architectures
    assert drawn[0].architectures == sorted(drawn[0].architectures)
    everything = load_target(settings(made, "run0")).truth
    worth = dict(zip(everything.architectures, everything.accuracies.tolist(), strict=True))
    assert drawn[0].accuracies.tolist() == [worth[a] for a in drawn[0].architectures]


def test_without_checkpoint_the_table_names_the_space(made, tmp_path):
    text = (made / "table.csv").read_text()
    head = (
        '# settings: {"space": {"name": "chain", "widths": [4], "depths": [2], "strides": [1], '
        '"candidates": ["skip", "conv1", "conv3"]}}\n'
    )
    (tmp_path / "headed.csv").write_text(head + text)
    target = load_target(settings(made, truth=str(tmp_path / "headed.csv")))
    assert target.space_settings == CHAIN
    assert (target.trained, target.batches, target.input_shape) == ([], [], (3, 32, 32))
    data = SyntheticSettings(size=100, image_size=16, classes=3, crop=2)
    target = load_target(settings(made, space=CHAIN, data=data, proxies=["naswot"]))
    assert target.input_shape == (3, 16, 16)


def test_a_tables_factory_must_be_named_too(tmp_path):
    called, table = tmp_path / "called", tmp_path / "table.csv"

    def asked(space, ours=None):
        table.write_text(f"# settings: {json.dumps({'space': space})}\narchitecture,a\n0,0.5\n1,0.6\n")
        return load_target(RankRunSettings(truth=str(table), space=ours))

    with pytest.raises(DataError, match=r"names the factory os:system in its head, .* if you trust it"):
        asked({"name": "custom", "factory": "os:system", "kwargs": {"command": f"touch {called}"}})
    assert not called.exists()
    ours = CustomSettings(factory="support.exports:Stubborn")
    assert asked({"name": "custom", "factory": ours.factory}, ours).truth.architectures == [(0,), (1,)]


def test_what_does_not_belong_together_is_one_line(made, tmp_path):
    def refused(error, words, *runs, **more):
        with pytest.raises(error, match=words):
            load_target(settings(made, *runs, **more))

    refused(SettingError, r"space=null: must be given: the table .* does not say it; write for example space=chain")
    refused(SettingError, "data=null: must be given: proxies look at images", space=CHAIN, proxies=["naswot"])
    refused(NasError, r"proxies=foo: .*naswot", space=CHAIN, proxies=["foo"])
    refused(SettingError, "architectures=10: the table has only 9; write", space=CHAIN, architectures=10)
    refused(DataError, "9 of 9 architectures do not fit", space=ChainSettings())
    finish(tiny(replace(tiny(), space=replace(CHAIN, widths=[5]))), tmp_path / "other")
    other = {"checkpoint": [str(made / "run0"), str(tmp_path / "other")]}
    refused(CheckpointError, r"checkpoint=.*other.*: is of another space than .*run0", **other)
    (tmp_path / "one.csv").write_text("architecture,a\n0-0,0.5\n")
    refused(SettingError, "has 1 architecture: one alone", truth=str(tmp_path / "one.csv"), space=CHAIN)
    words = r"rank.proxy_images=1000: 2 such batches need 2000 training images; there are .*; write .*=4\d or less"
    refused(SettingError, words, "run0", proxies=["naswot"], rank=replace(QUIET, proxy_images=1000))


WRONG = [
    ({"predictors": ["lose"]}, "predictors=lose: must be one of loss, accuracy"),
    ({"predictors": ["loss", "loss"]}, "predictors=.*: names one of them twice"),
    ({"architectures": 1}, "architectures=1: must be 0 for all, or at least 2"),
    ({"weights": 0}, "weights=0: must be at least 1"),
    ({"split": "train"}, "split=train: must be one of val, test"),
    ({"checkpoint": [3]}, r"checkpoint=\[3\]: must be a name or a list of names"),
    ({"checkpoint": "a", "space": CHAIN}, "space=given: a checkpoint has its own; leave space out"),
    ({"rank": RankSettings(sum=["loss", "flops"])}, "rank.sum=loss: must be one of parameters, flops"),
    ({"run": "a/b"}, "run=a/b: must be a plain name"),
    ({"seed": -1}, "seed=-1: must not be negative"),
]


def test_a_wrong_setting_is_one_line():
    for words, expected in WRONG:
        with pytest.raises(SettingError, match=expected):
            RankRunSettings(**words)


def test_the_rank_sum_is_of_loss_and_parameters():
    assert RankRunSettings(checkpoint="a").summed == ["loss", "parameters"]
    assert RankRunSettings(checkpoint="a", predictors=["accuracy"]).summed == []
    assert RankRunSettings().summed == []
    assert RankRunSettings(proxies=["naswot"], rank=RankSettings(sum=["naswot", "flops"])).summed == ["naswot", "flops"]
    assert set(PROXIES) >= {"parameters", "flops"}


def test_the_surrogate_sees_what_it_is_told_to(made, tmp_path, monkeypatch):
    seen = []

    def note(space, columns, *, choices, pairs, reference):
        numbers = {name: [column(reference) for column in group] for name, group in columns.items()}
        seen.append((numbers, choices, pairs))
        return Surrogate(space, columns, choices=choices, pairs=pairs, reference=reference)

    monkeypatch.setattr(module, "Surrogate", note)
    few = replace(QUIET, trainings=4)
    _, found = predicted(settings(made, "run0", "run1", predictors=["surrogate"], rank=few), tmp_path)
    assert list(found) == ["surrogate", "parameters", "flops"]  # the loss is seen, and not shown
    assert found["surrogate"].values.shape == (DRAWS, 9)
    plain = predicted(settings(made, "run0", "run1", predictors=["loss"]), tmp_path)[1]
    chosen = replace(few, features=["pairs", "naswot"])
    more = {"predictors": ["surrogate"], "proxies": ["naswot"], "rank": chosen}
    proxies = predicted(settings(made, "run0", **more), tmp_path)[1]
    (first, *how), (second, *other) = seen
    assert first["supernet"] == plain["loss"].values.tolist()
    assert first["cost"] == [found[name].values[0].tolist() for name in ("parameters", "flops")]
    assert (first.keys(), how) == ({"cost", "supernet"}, [True, True])
    assert (second.keys(), other) == ({"naswot"}, [False, True])
    assert second["naswot"] == proxies["naswot"].values.tolist()
