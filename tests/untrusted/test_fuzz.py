"""Whatever is fed to what reads files, it ends in a result or in an error of ours.

A tenth of the damage is drawn, other damage in each run; a failure tells the seed, and ``NAS_FUZZ_SEED`` draws the same
again. ``-m thorough`` draws all of it, and ``NAS_FUZZ_ROUNDS`` so many times as much.
"""

import json
import os
import random
import shutil
import warnings
import zipfile
from dataclasses import asdict, replace
from hashlib import sha256

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from safetensors import safe_open
from safetensors.torch import save
from support.archives import as_zip, encoded, of
from support.damage import TEXT, mutated, mutated_value
from support.runs import RUNS, assert_same, finish, tiny

from nas import checkpoint
from nas.checkpoint import load_trained
from nas.cli.entry import _HYDRAS
from nas.config import conf_folder, explain, register, settings_from
from nas.data.read.cache import FORMAT
from nas.data.read.folder import load_folder
from nas.errors import NasError
from nas.export import export, load
from nas.journal import Journal
from nas.score.benchmark import load_table
from nas.sealed import seal, unseal
from nas.search.outcome import SearchResult, read_result
from nas.settings import (
    CellSettings,
    ChainSettings,
    MacroSettings,
    TrainRunSettings,
    TwoBranchSettings,
    train_settings,
)
from nas.space import build_space
from nas.train import Run, best_of_run, make_report
from nas.train.report import read_report

SEED = os.environ.get("NAS_FUZZ_SEED") or str(random.SystemRandom().randrange(1 << 32))
TIMES = int(os.environ.get("NAS_FUZZ_ROUNDS", "1"))
SHARE = 10
"""One in so many rounds is made."""

SPACES = {
    "chain": build_space(ChainSettings(widths=[4], depths=[2], strides=[1])),
    "two_branch": build_space(TwoBranchSettings()),
    "macro": build_space(MacroSettings()),
    "cell": build_space(CellSettings(cells=1, width=4)),
}


def fuzz(name, rounds, once, least=0.05):
    """Feed ``once(draws)`` with generators; whatever is no error of ours is told with the seed of its round."""
    refused, rounds = 0, max(1, rounds * TIMES // SHARE)
    for number in range(rounds):
        draws = random.Random(f"{name}-{SEED}-{number}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Pillow, about images
                once(draws)
        except NasError as error:
            refused += 1
            line = str(error)
        except Exception as error:
            raise AssertionError(f"NAS_FUZZ_SEED={SEED}, round {number}: {type(error).__name__}: {error}") from error
        else:
            continue
        assert len(line.splitlines()) == 1
        assert len(line) < 6000
    assert SHARE > 1 or refused >= least * rounds, "nothing was damaged"


@pytest.fixture(scope="module", autouse=True, params=["some", pytest.param("all", marks=pytest.mark.thorough)])
def small_sizes(request):
    """Settings from damaged files may ask for as much as is allowed; here that is little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request.module, "SHARE", 10 if request.param == "some" else 1)
        patch.setattr("nas.settings.data.MOST_BYTES", 1 << 24)
        patch.setattr("nas.settings.space.MOST_BRANCHES", 1000)
        yield


# ---------------------------------------------------------------------------------------------------------- images


FORMATS = ("PNG", "GIF", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "PNG")
PLACES = ("train/a", "train/b", "train/a", "train/b", "train/a", "train/b", "test/a", "test/a")
IMAGES = {f"{PLACES[i]}/{i}.png": encoded(i, kind) for i, kind in enumerate(FORMATS)}


def read_images(path):
    pool, test = load_folder(of(path))
    for part in (pool, test):
        assert part.images.dtype == torch.uint8
        assert part.images.shape == (len(part), 3, 8, 8)
        assert int(part.labels.max()) < len(part.classes)
    return pool, test


def test_any_zip_or_image_reads_or_fails_cleanly(tmp_path):
    path = tmp_path / "a.zip"

    def once(draws):
        method = draws.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        if draws.random() < 0.5:
            chosen = draws.choice(sorted(IMAGES))
            as_zip(path, {**IMAGES, chosen: mutated(IMAGES[chosen], draws)}, method)
        else:
            path.write_bytes(mutated(as_zip(path, IMAGES, method).read_bytes(), draws))
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        read_images(path)

    fuzz("zip", 1200, once)


def test_any_cache_gives_the_images_of_its_source(tmp_path):
    path = as_zip(tmp_path / "a.zip", IMAGES)
    expected = read_images(path)
    (file,) = (tmp_path / "cache").glob("*.jsonl")
    pixels, journal = file.with_suffix(".u8"), file.read_bytes()
    first, *others = [json.loads(line) for line in journal.splitlines()[1:]]
    for entry in (first, *others):
        del entry["crc32"]
    whole = pixels.read_bytes()
    for number in range(100 * TIMES // SHARE):
        draws = random.Random(f"cache-{SEED}-{number}")
        pixels.unlink()  # what was mapped stays
        pixels.write_bytes(whole if draws.random() < 0.5 else mutated(whole, draws))
        file.unlink()
        definition = {"format": FORMAT, "size": 8}
        forged = {**first, "classes": mutated_value(first["classes"], draws)}
        Journal(file, "cache", definition, lambda _: None, result=file).append(forged, *others)
        if draws.random() < 0.5:
            file.write_bytes(mutated(file.read_bytes(), draws))
        for found, true in zip(read_images(path), expected, strict=True):
            assert_same(asdict(replace(found, classes=true.classes)), asdict(true))


# -------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with averages, its checkpoint and an export of it."""
    folder = tmp_path_factory.mktemp("run")
    asked = tiny(RUNS["chain-fair-adamw-ema"], epochs=1)
    asked = replace(asked, track=replace(asked.track, writers=[]))
    with torch.random.fork_rng():
        make_report(finish(asked, folder))
    exported = tmp_path_factory.mktemp("export") / "one"
    export(load_trained(folder), (2, 1), exported, program=False)
    return asked, folder, exported


def test_any_checksummed_checkpoint_loads_or_fails_cleanly(trained, tmp_path):
    metadata, tensors = unseal(checkpoint.saved(trained[1])[0])
    data, path = bytes(seal(metadata, tensors)), tmp_path / "step_000000011.safetensors"
    header = 8 + int.from_bytes(data[:8], "little")

    def once(draws):
        if draws.random() < 0.5:  # a part of the metadata, as text or as what it means
            part = draws.choice(sorted(metadata))
            text = mutated(metadata[part].encode(), draws).decode(errors="replace")
            if draws.random() < 0.7:
                text = json.dumps(mutated_value(json.loads(metadata[part]), draws))
            path.write_bytes(seal({**metadata, part: text}, tensors))
        else:  # the names, types, shapes and places of the tensors
            text = mutated(data[98:header], draws)
            size = len(data[8:98] + text).to_bytes(8, "little")
            changed = bytearray(size + data[8:34] + b"0" * 64 + text + data[header:])
            changed[34:98] = sha256(changed).hexdigest().encode()
            path.write_bytes(changed)
        found = load_trained(path)
        assert all(bool(torch.isfinite(value).all()) for value in found.supernet.state_dict().values())

    fuzz("checkpoint", 150, once)


def test_any_state_resumes_or_says_why_not(trained, tmp_path):
    asked, folder, _ = trained
    state = checkpoint.load(checkpoint.saved(folder)[0])

    def once(draws):
        part = draws.choice([name for name in state if name not in ("settings", "space")])
        checkpoint.save(tmp_path, 11, {**state, part: mutated_value(state[part], draws)})
        Run(asked, tmp_path).tracker.writer.close()

    fuzz("state", 60, once)


def test_any_plain_data_are_settings_or_fail_cleanly():
    whole = [asdict(TrainRunSettings()), *map(asdict, RUNS.values())]

    def once(draws):
        changed = draws.choice(whole)
        for _ in range(draws.choice((1, 2, 4))):
            changed = mutated_value(changed, draws)
        assert isinstance(train_settings(changed), TrainRunSettings)

    fuzz("settings", 1000, once)


# --------------------------------------------------------------------------------------- exports, reports and results


def test_any_export_is_a_network_or_fails_cleanly(trained, tmp_path):
    x, expected = torch.randn(2, 3, 16, 16), load(trained[2]).state_dict()
    with safe_open(trained[2] / "weights.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network = json.loads(file.metadata()["network"])

    def once(draws):
        folder = shutil.copytree(trained[2], tmp_path / "e", dirs_exist_ok=True)
        card = json.loads((folder / "card.json").read_text())
        file = folder / draws.choice(("card.json", "card.json", "weights.safetensors"))
        match draws.randrange(3):
            case 0:  # another file
                file.write_bytes(mutated(file.read_bytes(), draws))
                found = load(folder)
                assert_same(found.state_dict(), expected)
                assert found(x).shape == (2, 3)
                return
            case 1:  # as somebody would who means harm: other weights, another network
                data = mutated((folder / "weights.safetensors").read_bytes(), draws)
            case 2:
                card["network"] = mutated_value(network, draws)
                data = save(tensors, {"network": json.dumps(card["network"])})
        (folder / "weights.safetensors").write_bytes(data)
        card["files"] = {"weights.safetensors": sha256(data).hexdigest()}
        (folder / "card.json").write_text(json.dumps(card))
        load(folder)

    fuzz("export", 700, once)


# ------------------------------------------------------------------------------------------ tables and architectures


def test_reports_results_and_tables_read_or_fail_cleanly(trained, tmp_path):
    head = '# settings: {"space": {"name": "chain", "widths": [4], "depths": [2], "strides": [1]}}\n'
    rows = "".join(f"{i}-{k},{0.1 * i + 0.05},0.{k}5\n" for i in range(4) for k in range(4))
    front = [{"architecture": "1-0", "choices": "a, b", "values": {"loss": 0.5}}]
    result = ("a.pt", "0" * 64, {"name": "chain"}, {"name": "digits"}, ["loss"], "1-0", {"loss": 1}, front, 9)
    given = {
        "report.json": (trained[1] / "report.json").read_text(),
        "result.json": json.dumps(asdict(SearchResult(*result))),
        "table.json": json.dumps({f"{i}-{k}": {"test_acc": [80.5 + i, 81.0 + k]} for i in range(4) for k in range(4)}),
        "table.csv": head + "architecture,first,second\n" + rows,
    }

    def read(name):
        if name == "report.json":
            assert isinstance(best_of_run(tmp_path), str)
            assert read_report(tmp_path).subnetworks
        elif name == "result.json":
            found = read_result(tmp_path)
            assert isinstance(found.best, str)
            assert found.checkpoint is None or isinstance(found.checkpoint, str)
        else:
            ours = ChainSettings(widths=[4], depths=[2], strides=[1])
            truth = load_table(str(tmp_path / name), SPACES["chain"], ours)
            assert truth.accuracies.shape[0] == len(truth.architectures) == len(set(truth.architectures)) > 0
            assert bool(((truth.accuracies >= 0) & (truth.accuracies <= 1)).all())

    for name, text in given.items():

        def once(draws, name=name, text=text):
            changed = mutated(text.encode(), draws)
            if name.endswith("json") and draws.random() < 0.5:
                changed = json.dumps(mutated_value(json.loads(text), draws)).encode()
            (tmp_path / name).write_bytes(changed)
            read(name)

        fuzz(name, 700, once)


CELLS = ["x" * 200_000, '"' + "x" * 200_000 + '"', "9" * 5000, "1e400", "\0", "0,5," * 100_000]


def test_an_absurd_cell_is_one_line(tmp_path):
    for cell in CELLS:
        (tmp_path / "t.csv").write_text(f"architecture,a\n0-0,{cell}\n")
        with pytest.raises(NasError) as caught:
            load_table(str(tmp_path / "t.csv"), SPACES["chain"])
        assert len(str(caught.value)) < 6000, cell[:9]


ALIKE = "0123456789+-|~ _nocev\u00b2\u0661\n"
NUMBERS = ["9" * 5000, "\u00b2-0", "\u0661-0", "1_0-0", " 1-0", "-", "+", "", "0+0-1", "1-0\n", "0" * 10**6]


def test_any_text_is_an_architecture_or_fails_cleanly():
    for name, space in SPACES.items():

        def once(draws, space=space):
            architecture = space.encode(space.sample(torch.Generator().manual_seed(draws.randrange(1 << 32))))
            letters = draws.choice((ALIKE, "0123456789+-", [chr(draws.randrange(0xD800)) for _ in range(20)]))
            text = "".join(draws.choices(letters, k=draws.randrange(40)))
            found = space.decode(draws.choice((text, mutated(architecture.encode(), draws).decode(errors="replace"))))
            assert space.decode(space.encode(space.validate(found))) == found

        fuzz(f"architecture {name}", 1000, once)
        for text in NUMBERS:
            with pytest.raises(NasError) as caught:
                space.decode(text)
            assert len(str(caught.value)) < 6000, (name, text[:9])


# -------------------------------------------------------------------------------------------------------- command line

KEYS = ["train.epochs", "seed", "space.branches", "optimizer.lr", "run", "data.val_fraction", "train.warmup_epochs"]
KEYS += ["space", "space.widths", "train", "gate", "data", "track.progress", "dist.timeout_s", "hydra.run.dir"]
KEYS += ["+x", "~space", "space.factory", "evaluate.recalibrate"]
VALUES = ["1e400", ".nan", ".inf", "-.inf", "nan", "inf", "''", '""', "null", "${seed}", "${run}"]
VALUES += ["${train.epochs}", "${train}", "${.}", "${oc.env:HOME}", "${no:x}", "${", "$", "0x10", "1_000", "true"]
VALUES += ["-0", "1e-400", "'", '"', "\\", "[1,2", "{a:1}", "${a${b}}", "???", "*", "a,b", "range(1,10**9)"]
VALUES += ["choice(1,2)", "int(5)", "a:b"]
VALUES += ["10" * 15, "9" * 400, "9" * 5000, "[" * 300, "{" * 300, "[" * 100 + "]" * 100, "a" * 100_000, "a\nb"]
VALUES += [
    "[" + ",".join(["1"] * 3000) + "]",
    "\u0661",
    "\u00b2",
    "\0",
    "\ud800",
    "{a: 1}",
    "[0," * 50 + "1" + "]" * 50,
]


def answered(words):
    """What the command line makes of ``words``: settings, or one line; as in nas.cli.entry."""
    try:
        found = settings_from(compose("train", words), TrainRunSettings)
    except NasError as error:
        return str(error)
    except (HydraException, OmegaConfBaseException, *_HYDRAS) as error:
        return explain(error, words)
    except OSError as error:  # of a name that is too long; the command line tells the system's words
        return str(error.strerror)
    assert train_settings(asdict(found)) == found
    return found


@pytest.fixture
def command_line():
    register()
    with initialize_config_dir(conf_folder(), version_base="1.3"):
        yield


def test_any_word_is_settings_or_one_line(command_line):
    refused = []

    def once(draws):
        words = []
        for _ in range(draws.choice((1, 1, 2))):
            value = draws.choice([*VALUES, *TEXT])
            if draws.random() < 0.3:
                value = mutated(value[:200].encode(errors="replace"), draws).decode(errors="replace")
            words.append(f"{draws.choice(KEYS)}={value}")
        try:
            found = answered(words)
        except Exception as error:
            raise AssertionError(f"{[word[:200] for word in words]}: {type(error).__name__}: {error}") from error
        if isinstance(found, str):
            refused.append(found)

    fuzz("words", 400, once, least=0)
    assert refused
    assert all(len(line.splitlines()) == 1 and len(line) < 6000 for line in refused)
