"""A user's own network is a space: any module with gated blocks in it and ``forward(x, architecture)``."""

import sys

import pytest
import torch
from torch import nn

from nas.errors import ArchitectureError, SettingError, SpaceError
from nas.nn import GatedSum
from nas.settings import CustomSettings
from nas.space import build_space, check_supernet

MY_NET = """
import torch
from torch import nn
from nas.nn import BlockLinear, GatedConcat, GatedSum

class MyNet(nn.Module):
    def __init__(self, width=4, classes=10):
        super().__init__()
        self.left = GatedSum([nn.Conv2d(3, width, 3), nn.Conv2d(3, width, 3)], ["a", "b"])
        self.inner = nn.ModuleDict({"mix": GatedConcat([nn.Conv2d(width, w, 1) for w in (1, 2, 3)])})
        self.head = BlockLinear(3, [1, 2, 3], classes)

    def forward(self, x, architecture):
        z = self.inner["mix"](self.left(x, architecture[0]), architecture[1])
        return self.head(z.map(lambda t: t.mean(dim=(2, 3))))

class Named(MyNet):
    def __init__(self, right=True):
        super().__init__()
        self.right = right

    def canonical(self, architecture):
        return (0, 0) if architecture[0] == 0 else (1, architecture[1] + (not self.right))

def plain(**kwargs):
    return nn.Linear(2, 2)

def number():
    return 7

def broken():
    raise RuntimeError("this factory is broken")

NOT_CALLABLE = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module in a folder of its own, on sys.path."""
    name = f"net_{abs(hash(tmp_path.name))}"
    (tmp_path / f"{name}.py").write_text(MY_NET)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def custom(factory, **kwargs):
    return build_space(CustomSettings(factory=factory, kwargs=kwargs))


def test_slots_are_the_gated_blocks_by_name(module):
    space = custom(f"{module}:MyNet")
    assert [(slot.name, slot.choices) for slot in space.slots] == [
        ("left", ("a", "b")),
        ("inner.mix", ("branch0", "branch1", "branch2")),
    ]
    assert space.size == 6


def test_a_custom_space_extracts_like_any_other(module):
    space = custom(f"{module}:MyNet", width=6, classes=5)
    supernet, x = space.supernet(seed=2), torch.randn(2, 3, 8, 8)
    check_supernet(space, supernet, 3, 8, 5)
    for architecture in space.enumerate():
        assert torch.equal(space.subnet(architecture, seed=2)(x), supernet(x, architecture))
    assert supernet.left.branches[0].out_channels == 6
    again = space.supernet(seed=2).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in supernet.state_dict().items())


def test_a_module_in_the_working_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "net_lying_here.py").write_text(MY_NET)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    monkeypatch.chdir(tmp_path)
    assert custom("net_lying_here:MyNet").size == 6
    assert sys.modules.pop("net_lying_here").__file__ == str(tmp_path / "net_lying_here.py")


REFUSED = {
    ":plain": r"space\.factory={}:plain: has no gated block; put a nas\.nn\.Gated",
    ":number": r"space\.factory=.*: gave a int, not a torch\.nn\.Module",
    ":MyNot": r"space\.factory={0}:MyNot: {0} has no MyNot; did you mean MyNet",
    ":NOT_CALLABLE": r"space\.factory={}:NOT_CALLABLE: is of the type int, which cannot be called",
    "no_such_module:Net": r"space\.factory=no_such_module:Net: there is no module no_such_module; run",
    "no_such_package.my_net:Net": r"factory=no_such_package\.my_net:Net: there is no module no_such_package; run",
    "net_with_a_gap:Net": "net_with_a_gap imports surely_not_installed, which there is not; install it",
}


def test_a_factory_that_gives_no_supernet_is_refused(module, tmp_path):
    (tmp_path / "net_with_a_gap.py").write_text("import surely_not_installed\n")
    for factory, message in REFUSED.items():
        with pytest.raises((SettingError, SpaceError), match=message.format(module)):
            custom(module + factory if factory.startswith(":") else factory)
    rule = r"MyNet cannot be called with these \(got an unexpected keyword argument 'wdith'\); "
    with pytest.raises(SettingError, match=rf"space\.kwargs=.*: {module}:{rule}"):
        custom(f"{module}:MyNet", wdith=3)


def test_a_users_own_error_is_not_hidden(module):
    with pytest.raises(RuntimeError, match="this factory is broken"):
        custom(f"{module}:broken")


class Cells(nn.Module):
    """Three cells of two edges, each with a choice of its own, which all cells share."""

    def __init__(self):
        super().__init__()
        branches = lambda: [nn.Identity(), nn.Conv2d(3, 3, 3, padding=1)]  # noqa: E731
        edges = ("first", "second") * 3
        self.cells = nn.ModuleList(GatedSum(branches(), ["skip", "conv3"], slot=edge) for edge in edges)
        self.head = nn.Linear(3, 5)

    def forward(self, x, architecture):
        for number, cell in enumerate(self.cells):
            x = cell(x, architecture[number % 2])
        return self.head(x.mean(dim=(2, 3)))


def test_blocks_naming_one_slot_share_it():
    space = custom(f"{__name__}:Cells")
    assert [(slot.name, slot.choices) for slot in space.slots] == [
        ("first", ("skip", "conv3")),
        ("second", ("skip", "conv3")),
    ]
    supernet, x = space.supernet(seed=2), torch.randn(2, 3, 8, 8)
    check_supernet(space, supernet, 3, 8, 5)
    for architecture in space.enumerate():
        network = space.subnet(architecture, seed=2)
        assert torch.equal(network(x), supernet(x, architecture))
        assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == 3 * sum(architecture)


def test_a_network_may_say_its_canonical_forms(module):
    space = custom(f"{module}:Named")
    assert [space.canonical((0, 2)), space.canonical((1, 2))] == [(0, 0), (1, 2)]
    assert custom(f"{module}:MyNet").canonical((0, 2)) == (0, 2)
    wrong = custom(f"{module}:Named", right=False)
    with pytest.raises(SpaceError, match=r"canonical\(\(1, 0\)\) is \(1, 1\), but canonical\(\(1, 1\)\) is \(1, 2\)"):
        wrong.canonical((1, 0))
    with pytest.raises(ArchitectureError):
        wrong.canonical((1, 2))
