"""The pages tell the truth: commands compose, examples run, and what they link or name exists."""

import json
import re
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from support.runs import CHAIN

import nas
from nas import settings
from nas.config import conf_folder, register, settings_from
from nas.export import export, load
from nas.settings import (
    BenchSettings,
    ExportSettings,
    RankRunSettings,
    ScoreSettings,
    SearchRunSettings,
    TrainRunSettings,
)

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SUBJECTS = [page for page in PAGES if page.parent == ROOT / "docs"]
TEXTS = {page: page.read_text() for page in PAGES}
VERBS = {
    "train": TrainRunSettings,
    "score": ScoreSettings,
    "search": SearchRunSettings,
    "rank": RankRunSettings,
    "export": ExportSettings,
    "bench": BenchSettings,
}


def commands(text):
    """Commands of this package in indented lines, those after torchrun among them, as ``nas-VERB words``."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.startswith("    ")]
    found = []
    for line in lines:
        line = re.sub(r"torchrun .*-m nas\.cli\.(\w+)", r"nas-\1", line.split(" #")[0])
        if match := re.match(rf"    (?:\$ )?(?:\(.*; )?(nas-(?:{'|'.join(VERBS)})(?: [^)]*)?)\)?$", line):
            found.append(match[1].strip())
    return found


def slug(heading):
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [page for page in PAGES if commands(TEXTS[page])], ids=lambda page: page.stem)
def test_commands_compose(page):
    register()
    with initialize_config_dir(conf_folder(), version_base="1.3"):
        for command in commands(TEXTS[page]):
            name, *words = (word for word in shlex.split(command) if not word.startswith("-"))
            verb = name.removeprefix("nas-")
            run = [] if verb == "bench" else ["run=page"]
            for end in (0, -1):  # of a sweep: its first and its last run
                overrides = []
                for word in words:
                    key, _, value = word.partition("=")
                    swept = " -m " in command and "," in value and "[" not in value
                    overrides.append(f"{key}={value.split(',')[end]}" if swept else word)
                found = settings_from(compose(verb, [*overrides, *run]), VERBS[verb])
                assert isinstance(found, VERBS[verb]), command


def test_every_verb_has_commands():
    everything = [command for text in TEXTS.values() for command in commands(text)]
    assert {command.split()[0].removeprefix("nas-") for command in everything} == set(VERBS)
    assert sum("run=two" in command for command in everything) >= 2  # of torchrun
    assert len(everything) >= 40


def small_onnx(folder):
    """A network that nas-export has written, with the normalisation in it."""
    images, labels = torch.arange(40 * 192).view(40, 3, 8, 8).byte(), torch.arange(40) % 2
    trained = nas.train_supernet(CHAIN, images, labels, epochs=1, batch_size=8, progress=False)
    export(trained, trained.best, folder / "out", onnx=True, fold=True)
    return (folder / "out" / "network.onnx").read_bytes()


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in TEXTS[page]], ids=lambda page: page.stem)
def test_examples_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = {}
    if page.stem == "export":
        pytest.importorskip("onnxruntime")
        (tmp_path / "network.onnx").write_bytes(small_onnx(tmp_path))
        Image.merge("RGB", [Image.effect_noise((20, 30), 64) for _ in "RGB"]).save(tmp_path / "image.png")
    for example in re.findall(r"```python\n(.*?)```", TEXTS[page], re.DOTALL):
        if match := re.match(r"# (\w+\.py)\n", example):
            (tmp_path / match[1]).write_text(example)
        exec(compile(example, page.name, "exec"), names)
    if page.stem == "export":
        image = torch.tensor(names["image"]).permute(2, 0, 1)[None]
        logits = load(tmp_path / "out")(image).detach()
        torch.testing.assert_close(torch.tensor(names["logits"]), logits, rtol=1e-4, atol=1e-5)
        assert capsys.readouterr().out.strip() == json.loads(names["about"]["classes"])[int(logits.argmax())]
    if page.stem == "own_network":
        assert not any("Gated" in type(module).__name__ for module in names["plain"].modules())
    if page.stem == "jacobians":
        assert names["loss"].isfinite()


def test_a_users_network_takes_ten_lines():
    example = re.findall(r"```python\n(.*?)```", TEXTS[ROOT / "README.md"], re.DOTALL)[1]
    lines = [line for line in example.splitlines() if line.strip() and "import" not in line and line[0] != "#"]
    assert len(lines) <= 10


def test_links_and_images_lead_somewhere():
    for page, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith("http"):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            assert path.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
                assert anchor in map(slug, headings), f"{page.name}: {target}"


def test_named_files_exist():
    for page, text in TEXTS.items():
        for path in re.findall(r"(?<![\w/.])((?:nas|tests|scripts|conf|docs|\.ci)/[\w./]*)", text):
            assert "NAME" in path or (ROOT / path.rstrip(".")).exists(), f"{page.name}: {path}"
        for name, path in re.findall(r"`([\w.]+)` in `(nas/[\w/]+\.py)`", text):
            assert name.rpartition(".")[2] in (ROOT / path).read_text(), f"{page.name}: {name} in {path}"
    for script in (ROOT / "scripts").glob("*.sh"):
        assert subprocess.run(["bash", "-n", script], check=False).returncode == 0, script


def test_named_settings_exist():
    groups = {group: list(classes.values()) for group, classes in settings.GROUPS.items()}
    for part in ("Train", "Evaluate", "Track", "Dist", "Search", "Rank"):
        groups[part.lower()] = [getattr(settings, f"{part}Settings")]
    keys = {f"{group}.{field.name}" for group, classes in groups.items() for c in classes for field in fields(c)}
    for page, text in TEXTS.items():
        for key in re.findall(rf"`((?:{'|'.join(groups)})\.(?!csv|json)\w+)", text):
            assert key in keys, f"{page.name}: {key}"


def test_design_shows_the_arrows_that_are_tested():
    from test_imports import ORDER

    lines = [line.strip() for line in TEXTS[ROOT / "docs/design.md"].splitlines() if "->" in line]
    shown = " ".join(lines).replace("-> ->", "->").split("errors -> settings ->")[0]
    assert [set(places.strip().split(", ")) for places in shown.split("->")] == [
        set(places) for places in ORDER if not {"config", "cli"} & set(places)
    ]


def test_nothing_is_left_to_fill_in():
    for page, text in TEXTS.items():
        assert not re.search(r"@@|TODO|TBD|FIXME", text), page.name


def test_every_page_and_image_is_reached():
    linked = re.findall(r"\]\(docs/([^)#]+)\)", TEXTS[ROOT / "README.md"])
    assert {page.name for page in SUBJECTS} <= set(linked)
    shown = {Path(image).name for text in TEXTS.values() for image in re.findall(r"!\[.*?\]\((\S+)\)", text)}
    assert shown == {path.name for path in (ROOT / "docs").glob("*.png")}


def test_each_page_says_what_it_is_for():
    for page in SUBJECTS:
        assert re.match(r"# .+\n\nAfter this page you ", TEXTS[page]), page.name


def test_pages_stay_short():
    assert len(TEXTS[ROOT / "README.md"].splitlines()) <= 190
    for page in SUBJECTS:
        assert len(TEXTS[page].splitlines()) <= 200, page.name


def test_the_tree_exists():
    tree = TEXTS[ROOT / "README.md"].split("## The tree")[1]
    folder = ROOT
    for line in tree.splitlines():
        if match := re.match(r"    (  )?([\w.]+/?)\s+\S", line):
            folder = folder if match[1] else ROOT / match[2]
            assert (folder / match[2] if match[1] else folder).exists(), line
    rooms = {f"{path.name}/" for path in (ROOT / "nas").iterdir() if (path / "__init__.py").is_file()}
    assert rooms <= set(re.findall(r"^      ([\w]+/)", tree, re.MULTILINE))
