"""What lies in an exported folder is loaded whole and unchanged, or refused in one line."""

import json
import shutil
from hashlib import sha256

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from support.exports import of

from nas.errors import NasError
from nas.export import ExportError, export, load
from nas.settings import CustomSettings


@pytest.fixture
def folder(trained, tmp_path):
    export(trained, (2, 0), tmp_path / "out", program=False)
    return tmp_path / "out"


def change(folder, edit):
    card = json.loads((folder / "card.json").read_text())
    edit(card)
    (folder / "card.json").write_text(json.dumps(card))


def test_loading_needs_card_and_weights_alone(folder):
    (folder / "README.md").unlink()
    before = torch.get_rng_state()
    load(folder)
    load(str(folder))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_flipped_bit_of_the_weights_is_noticed(folder):
    path = folder / "weights.safetensors"
    data = path.read_bytes()
    for place in range(0, len(data), len(data) // 30):
        path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        with pytest.raises(ExportError, match="is not the file that the card describes"):
            load(folder)
    path.write_bytes(data[:-1])
    with pytest.raises(ExportError, match="is not the file that the card describes"):
        load(folder)


def test_damaged_weights_with_a_fitting_card_are_refused(folder):
    path = folder / "weights.safetensors"
    for data in (b"", b"no tensors", path.read_bytes()[:-8], path.read_bytes()[:50]):
        path.write_bytes(data)
        change(folder, lambda card: card["files"].update({path.name: sha256(path.read_bytes()).hexdigest()}))
        with pytest.raises(ExportError, match="is damaged"):
            load(folder)


def test_a_wrong_card_is_one_line(folder):
    whole = (folder / "card.json").read_text()
    for edit, rule in (
        (lambda card: card["network"].update(architecture="1-0"), "describes another network"),
        (lambda card: card["network"].update(architecture=3), "describes another network"),
        (lambda card: card["network"].update(classes=4), "describes another network"),
        (lambda card: card["network"]["space"].update(widths=["x"]), "describes another network"),
        (lambda card: card["network"].update(space="chain"), "describes another network"),
        (lambda card: card.pop("network"), "it has no network"),
        (lambda card: card.update(files=[]), "it has no files"),
        (lambda card: card["files"].clear(), "is not the file"),
        (lambda card: card.update(format=2), "has format 2, this version reads 1; use the version"),
        (lambda card: card.pop("format"), "has format None"),
    ):
        (folder / "card.json").write_text(whole)
        change(folder, edit)
        with pytest.raises(ExportError, match=rule) as caught:
            load(folder)
        assert "\n" not in str(caught.value), rule
    for text in (b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000):
        (folder / "card.json").write_bytes(text)
        with pytest.raises(ExportError, match=r"card\.json: is damaged .*; export the network again"):
            load(folder)


def test_what_is_missing_is_named(folder, tmp_path):
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ExportError, match=r"weights\.safetensors: does not exist"):
        load(folder)
    for place in (tmp_path / "nowhere", tmp_path, folder / "card.json"):
        with pytest.raises(ExportError, match=r"has no card\.json in it; name a folder that nas-export has written"):
            load(place)


def test_the_weights_of_another_network_are_refused(trained, folder, tmp_path):
    export(trained, (1, 0), tmp_path / "other", program=False)
    shutil.copy(tmp_path / "other" / "weights.safetensors", folder)
    with pytest.raises(ExportError, match="is not the file that the card describes"):
        load(folder)


def forge(folder, edit):
    """Change what the network is, consistently: in the weights and in the card."""
    path = folder / "weights.safetensors"
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network = json.loads(file.metadata()["network"])
    edit(network)
    path.write_bytes(save(tensors, {"format": "pt", "network": json.dumps(network)}))
    digest = sha256(path.read_bytes()).hexdigest()
    change(folder, lambda card: card.update(network=network, files={path.name: digest}))


def test_a_description_that_builds_nothing_is_one_line(folder):
    with safe_open(folder / "weights.safetensors", "pt") as file:
        network = json.loads(file.metadata()["network"])
    for wrong, rule in (
        ({"space": {**network["space"], "groups": 4}}, r"space\.groups=4: is unknown to this version; use the version"),
        ({"space": {"name": ["x"]}}, r"space=\['x'\]: is unknown to this version"),
        ({"space": {"name": "chain", "widths": 5}}, r"space\.widths=5: must be list\[int\]"),
        ({"space": 3}, "space=3: must be dict"),
        ({"channels": None}, r"card\.json: is damaged \(its channels is not a number above 0.*\)"),
        ({"classes": "3"}, r"card\.json: is damaged \(its classes is not a number above 0.*\)"),
        ({"architecture": [2, 0]}, r"card\.json: is damaged \(its architecture is not text\)"),
    ):
        forge(folder, lambda found, wrong=wrong: found.update({**network, **wrong}))
        with pytest.raises(NasError, match=rule):
            load(folder)


def test_a_cards_factory_alone_is_not_called(folder, tmp_path):
    space = {"name": "custom", "factory": "os:system", "kwargs": {"command": f"touch {tmp_path / 'called'}"}}
    forge(folder, lambda network: network.update(space=space))
    for factory in (None, "support.exports:Net", "OS:system"):
        words = rf"factory={factory}: its network is built by os:system, .* \(.*card\.json\); .*factory='os:system'\)$"
        with pytest.raises(ExportError, match=words):
            load(folder, factory)
    assert not (tmp_path / "called").exists()


def test_the_readmes_call_loads_a_custom_network(make_trained, tmp_path):
    trained = make_trained(of(CustomSettings(factory="support.exports:Stubborn")))
    export(trained, (1,), tmp_path / "out", program=False)
    text = (tmp_path / "out" / "README.md").read_text()
    (call,) = [line for line in text.splitlines() if line.startswith("network = load(")]
    made = {"load": load}
    exec(call.replace("path/to/this/folder", str(tmp_path / "out")), made)
    x = torch.zeros(2, 3, 16, 16)
    assert torch.equal(made["network"](x), trained.supernet(x, (1,)))
