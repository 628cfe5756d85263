"""Existing networks whose modules become slots."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nas.config import plain_keys
from nas.errors import NasError
from nas.nn import GatedModel, gated_slots
from nas.settings import ModelSettings, TrainRunSettings, train_settings
from nas.space import build_space, extract, gate_modules
from nas.space.model.candidates import Old, candidate
from tests.support.plain_nets import Misused, Optioned, Overwriting, PlainNet, Untraceable

SIZE = (3, 16, 16)
SECONDS = {"blocks.*.second": ["keep", "conv1", "sep3", "skip"]}
NETS = "tests.support.plain_nets:"


def supernet(net: type[nn.Module] = PlainNet, gated: Any = None, **more: Any) -> GatedModel:
    torch.manual_seed(0)
    return gate_modules(net(), gated or SECONDS, input_shape=SIZE, **more)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(1))


def test_kept_modules_are_the_original_network(x: Tensor) -> None:
    torch.manual_seed(0)
    plain = PlainNet()
    whole = supernet()
    assert torch.equal(whole(x, (0, 0)), plain(x))
    assert extract(whole, (0, 0)).state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("net", [PlainNet, Untraceable])
@pytest.mark.parametrize("architecture", [(1, 2), (3, 0), ((0, 2), 1)])
def test_extracted_network_computes_the_same(net: type[nn.Module], architecture: Any, x: Tensor) -> None:
    whole = supernet(net)
    alone = extract(whole, architecture)
    whole(x, architecture).square().sum().backward()
    alone(x).square().sum().backward()
    assert torch.equal(whole.eval()(x, architecture), alone.eval()(x))
    grads = [p.grad for p in whole.parameters() if p.grad is not None]
    assert {g.double().norm().item() for g in grads} == {p.grad.double().norm().item() for p in alone.parameters()}  # type: ignore[union-attr]


def test_inactive_branch_gets_no_gradient(x: Tensor) -> None:
    whole = supernet()
    whole(x, (1, 2)).sum().backward()
    blocks = [blocks[0] for blocks in gated_slots(whole).values()]
    ran = [[any(p.grad is not None for p in branch.parameters()) for branch in block.branches] for block in blocks]
    assert ran == [[False, True, False, False], [False, False, True, False]]


def test_slots_stand_in_forward_order() -> None:
    gated = {"blocks.0.second": ["keep", "skip"], "blocks.0.first": ["keep", "conv5"], "stem": ["keep", "conv3"]}
    assert list(gated_slots(supernet(gated=gated))) == ["stem", "blocks.0.first", "blocks.0.second"]


def test_shared_pattern_is_one_slot(x: Tensor) -> None:
    whole = supernet(share=True)
    assert list(gated_slots(whole)) == ["blocks.*.second"]
    assert torch.equal(whole(x, (1,)), supernet()(x, (1, 1)))


def test_each_thread_has_its_own_architecture(x: Tensor) -> None:
    whole = supernet().eval()
    paths = [(i % 4, i // 4) for i in range(16)]
    alone = [whole(x, path) for path in paths]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, alone, pool.map(lambda path: whole(x, path), paths)))


@pytest.mark.parametrize(
    "old",
    [nn.Conv2d(4, 6, 11, 4, 2), nn.Conv2d(4, 6, (1, 7)), nn.Conv2d(4, 6, 4, 4), nn.Conv2d(4, 6, 3, padding="same")],
    ids=["alexnet", "1x7", "patches", "same"],
)
@pytest.mark.parametrize("name", ["conv1", "conv5", "sep3", "mb3_k3", "max_pool3"])
def test_candidate_has_the_shape_of_the_original(old: nn.Conv2d, name: str) -> None:
    for side in (23, 24):
        image = torch.zeros(1, 4, side, side)
        made = candidate(Old("old", old, tuple(image.shape), tuple(old(image).shape)), name)
        assert made(image).shape == old(image).shape


def test_convolution_that_pads_by_itself_has_candidates() -> None:
    class Same(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))

    old, image = Same(4, 6, 3, 2), torch.zeros(1, 4, 24, 24)
    made = candidate(Old("old", old, tuple(image.shape), tuple(old(image).shape)), "conv3")
    assert made(image).shape == old(image).shape


def test_skip_leaves_its_input_to_others(x: Tensor) -> None:
    whole, before = supernet(Overwriting, {"mix": ["keep", "skip"]}), x.clone()
    whole(x, (1,)).sum().backward()
    assert torch.equal(x, before)
    assert torch.equal(whole(x, (1,)), extract(whole, (1,))(x))


@pytest.mark.parametrize("path", [(0,), (1,), ((0, 1),)])
def test_options_that_are_off_may_be_handed_on(path: Any, x: Tensor) -> None:
    whole = supernet(Optioned, {"inner": ["keep", "skip"]})
    assert torch.equal(whole(x, path), extract(whole, path)(x))
    with pytest.raises(NasError, match="takes Tensor, bool and gives Tensor, where a gate takes one tensor"):
        supernet(Optioned, {"other": ["keep"]})


def test_users_own_candidate_and_whole_blocks(x: Tensor) -> None:
    whole = supernet(gated={"blocks.1": ["keep", "conv3"], "stem": ["keep", wide_stem], "fc": ["keep", "low2"]})
    assert next(iter(gated_slots(whole).values()))[0].choices == ("keep", "wide_stem")
    assert whole(x, (1, 1, 1)).shape == (4, 10)


def wide_stem(old: nn.Module) -> nn.Module:
    return nn.Sequential(old, nn.ReLU())


@pytest.mark.parametrize(
    ("net", "gated", "said"),
    [
        (PlainNet, {"block.*.second": ["keep"]}, "names no module of PlainNet; the nearest are blocks.1.second"),
        (PlainNet, {"stem": ["keep"], "st*": ["skip"]}, "st*: names stem, and so does stem; let one pattern"),
        (PlainNet, {"blocks.0*": ["keep"]}, "names blocks.0, and blocks.0."),
        (PlainNet, {"stem": ["keep", "skip"]}, "stem=skip: gives (1, 3, 16, 16) for (1, 3, 16, 16), where stem gives"),
        (PlainNet, {"stem": ["keep", "low4"]}, "stem=low4: is not a known operation; choose from keep, none, skip"),
        (PlainNet, {"fc": ["keep", "conv3"]}, "fc=conv3: is no candidate for a Linear such as fc"),
        (PlainNet, {"stem": "keep"}, "must have a list of candidates"),
        (PlainNet, {"stem": ["keep", lambda old: old.weight]}, "gives a Parameter and no torch.nn.Module"),
        (
            PlainNet,
            {"stem": ["keep", nn.Identity()]},
            "stem=Identity: is of the type Identity, and must be a name",
        ),
        (PlainNet, ["stem"], "must be names of modules with lists of candidates"),
        (lambda: PlainNet, {"stem": ["keep"]}, "must be a torch.nn.Module; call what makes it"),
        (PlainNet, {}, "names no module; write for example {blocks.1.shortcut: [keep"),
        (Misused, {"fc": ["keep", "linear"]}, "fc: is not called in a forward pass"),
        (nn.Bilinear, {"": ["keep"]}, "names no module"),
    ],
)
def test_bad_pattern_is_one_line(net: Any, gated: Any, said: str) -> None:
    model = nn.Bilinear(1, 1, 1) if net is nn.Bilinear else net()
    with pytest.raises(NasError) as caught:
        gate_modules(model, gated, input_shape=SIZE)
    assert said in str(caught.value)


def test_candidates_have_the_dtype_of_the_network(x: Tensor) -> None:
    whole = gate_modules(PlainNet().double(), SECONDS, input_shape=SIZE)
    assert whole(x.double(), (1, 2)).dtype == torch.float64


@pytest.mark.parametrize("path", [(0,), (0, 1, 1), (0, -1), (0, 9)])
def test_path_of_another_space_is_not_extracted(path: Any) -> None:
    with pytest.raises(NasError, match=r"must have one entry for each of the 2 slots|must name branches from 0 to 3"):
        extract(supernet(), path)


def test_refused_model_is_as_it_was() -> None:
    model = PlainNet()
    with pytest.raises(NasError):
        gate_modules(model, {"stem": ["keep", "conv1"], "fc": ["keep", "conv3"]}, input_shape=SIZE)
    assert not gated_slots(model)


def test_model_that_fails_names_its_line() -> None:
    with pytest.raises(NasError, match=r"does not run on an image of \(4, 16, 16\).*plain_nets\.py:3\d"):
        gate_modules(PlainNet(), SECONDS, input_shape=(4, 16, 16))


def test_model_that_writes_to_its_images_is_refused() -> None:
    class Writing(PlainNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.5))

    with pytest.raises(NasError, match="Writing: changes the images that it is given in place; let forward begin"):
        gate_modules(Writing(), SECONDS, input_shape=SIZE)


def settings(**more: Any) -> ModelSettings:
    return ModelSettings(**({"model": NETS + "PlainNet", "gated": SECONDS} | more))


def test_head_is_replaced_only_if_asked() -> None:
    with pytest.raises(NasError, match=r"gives 10 outputs, and the data has 7 classes; write space\.replace_head=true"):
        build_space(settings(), 3, 16, 7)
    space = build_space(settings(replace_head=True), 3, 16, 7)
    assert space.subnet((0, 1))(torch.zeros(2, *SIZE)).shape == (2, 7)
    old, new = (build_space(settings(replace_head=asked), 3, 16, 10).subnet((0, 1), seed=1) for asked in (False, True))
    assert torch.equal(old.get_submodule("stem").weight, new.get_submodule("stem").weight)  # type: ignore[arg-type]
    assert not torch.equal(old.get_submodule("fc").weight, new.get_submodule("fc").weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_weights_come_from_a_file(name: str, tmp_path: Path) -> None:
    state = PlainNet().state_dict()
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    alone = build_space(settings(weights=str(path)), 3, 16, 10).subnet((0, 0), seed=3).state_dict()
    assert all(torch.equal(state[key], alone[key]) for key in state)
    with pytest.raises(NasError, match=r"does not fit the network \(Missing key.*conv1"):
        build_space(settings(model="resnet18", weights=str(path), gated={"layer1.0.conv2": ["keep"]}), 3, 32, 10)
    path.write_bytes(b"")
    with pytest.raises(NasError, match="cannot be read as weights"):
        build_space(settings(weights=str(path)), 3, 16, 10)


def test_weights_in_halves_become_the_networks_own(tmp_path: Path) -> None:
    halves = PlainNet().half().state_dict()
    torch.save(halves, tmp_path / "w.pt")
    found = build_space(settings(weights=str(tmp_path / "w.pt")), 3, 16, 10).subnet((0, 0), seed=3).state_dict()
    assert all(torch.equal(found[name], value.to(found[name])) for name, value in halves.items())


@pytest.mark.parametrize(
    ("saved", "why"),
    [
        (nn.Linear(1, 1), "is damaged, or holds more than tensors"),
        ({"fc.weight": torch.eye(2, device="meta")}, "holds"),
    ],
)
def test_a_file_of_more_or_less_than_weights_is_refused(saved: Any, why: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "w.pt")
    with pytest.raises(NasError, match=why):
        build_space(settings(weights=str(tmp_path / "w.pt")), 3, 16, 10)


def test_torchvision_network_takes_the_classes_of_the_data() -> None:
    space = build_space(
        ModelSettings(model="torchvision.models.squeezenet1_1", gated={"features.3.expand3x3": ["keep", "conv1"]}),
        3,
        64,
        7,
    )
    assert space.subnet((1,))(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    kwargs = {"weights": "DEFAULT", "num_classes": 7}
    with pytest.raises(NasError, match=r"expected value 1000 but got 7 instead.*; leave num_classes out, and write"):
        build_space(ModelSettings(model="resnet18", gated=SECONDS, kwargs=kwargs), 3, 16, 7)
    with pytest.raises(NasError, match="did you mean resnet18"):
        build_space(ModelSettings(model="resnet_18", gated=SECONDS), 3, 16, 10)


def test_code_of_a_file_has_to_be_named() -> None:
    own = settings(gated={"stem": ["keep", NETS + "wide"]})
    assert own.unnamed(NETS + "PlainNet") == f"{NETS}PlainNet,{NETS}wide"
    assert own.unnamed(f"{NETS}wide,{NETS}PlainNet") == ""
    assert ModelSettings(model="resnet18", gated=SECONDS).called == ()


def test_settings_come_back_from_a_file() -> None:
    run = TrainRunSettings(space=settings(kwargs={"num_classes": 3}))
    assert train_settings(asdict(run)) == run


def test_names_of_modules_may_stand_in_quotes() -> None:
    word = """space.gated={"layer*.conv2": [keep, 'a:b'], 'fc': [keep]}"""
    assert plain_keys(word) == "space.gated={layer*.conv2: [keep, 'a:b'], fc: [keep]}"
    assert plain_keys("space.gated={'layer[12].1': [keep]}") == r"space.gated={layer\[12\].1: [keep]}"
    assert plain_keys('+x={"a": 1}') == '+x={"a": 1}'
    escaped = r"space.gated={c\[12\]: [keep, conv1], fc: [keep]}"
    assert plain_keys("space.gated={c[12]: [keep, conv1], 'fc': [keep]}") == plain_keys(escaped) == escaped


def test_trusted_names_joined_by_commas_are_one_word() -> None:
    assert plain_keys("factory=timm.vit,my.net:Net") == "factory='timm.vit,my.net:Net'"
    assert plain_keys("factory=my.net:Net") == "factory=my.net:Net"
