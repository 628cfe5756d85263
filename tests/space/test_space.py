"""An architecture is a value: drawn, counted, checked, written down, changed."""

import itertools
from collections import Counter

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from support.references import Slots

from nas.errors import ArchitectureError, NasError, SettingError, SpaceError
from nas.settings import ChainSettings, CustomSettings, MacroSettings, SpaceSettings, TwoBranchSettings
from nas.space import build_space

examples = settings(max_examples=80, deadline=None, derandomize=True)


counts = st.lists(st.integers(1, 12), min_size=1, max_size=6)


@st.composite
def spaces_with_architecture(draw, several=True):
    space, entries = Slots(*draw(counts)), []
    for slot in space.slots:
        index = st.integers(0, len(slot.choices) - 1)
        if several and len(slot.choices) > 1:
            index |= st.lists(index, min_size=2, max_size=4, unique=True).map(tuple)
        entries.append(draw(index))
    return space, tuple(entries)


def distance(first, second):
    return sum(a != b for a, b in zip(first, second, strict=True))


def test_enumerate_gives_every_architecture_once_in_order():
    space = Slots(3, 1, 4)
    every = list(space.enumerate())
    assert len(every) == len(set(every)) == space.size == 12
    assert every == sorted(every)
    assert every == list(itertools.product(range(3), range(1), range(4)))
    for architecture in every:
        assert space.validate(architecture) is architecture


def test_sizes_are_those_of_the_settings():
    assert build_space(TwoBranchSettings(branches=7)).size == 7
    assert build_space(ChainSettings(widths=[4, 4], depths=[3, 2], strides=[1, 1])).size == 4**5
    assert build_space(MacroSettings()).size == 6561


def test_samples_are_uniform():
    space, draws = Slots(3, 1, 4, 2), 12_000
    random = torch.Generator().manual_seed(5)
    for drawn in (Counter(space.sample(random) for _ in range(draws)), Counter(space.sample_many(draws, random))):
        assert drawn.total() == draws
        assert set(drawn) <= set(space.enumerate())
        expected = draws / space.size
        chi_square = sum((drawn[a] - expected) ** 2 / expected for a in space.enumerate())
        assert chi_square < 49.7  # 23 degrees of freedom, p = 0.001


def test_a_sample_is_a_function_of_its_generator():
    space = Slots(12, 12, 12)
    first, again, other = (space.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first == again != other
    before = torch.get_rng_state()
    space.sample(torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state())


several = st.integers(0, 2) | st.sampled_from([(0, 1), (2, 0), (0, 1, 2)])
of_macro = st.tuples(st.just(build_space(MacroSettings())), st.lists(several, min_size=8, max_size=8).map(tuple))


@examples
@given(spaces_with_architecture() | of_macro)
def test_decode_undoes_encode(pair):
    space, architecture = pair
    assert space.decode(space.encode(architecture)) == architecture


def test_texts_are_as_documented():
    assert Slots(2, 3, 3).encode((1, 0, 2)) == "1-0-2"
    assert Slots(2, 3).encode(((0, 1), 2)) == "0+1-2"
    assert Slots(12, 12).decode("11-10") == (11, 10)
    macro = build_space(MacroSettings())
    assert macro.decode("02012100") == (0, 2, 0, 1, 2, 1, 0, 0)
    assert macro.encode((0, 2, 0, 1, 2, 1, 0, 0)) == "02012100"
    assert macro.decode("0-2-0-1-2-1-0-0") == macro.decode("02012100")
    assert macro.encode((0, 2, 0, 1, 2, 1, 0, (0, 1))) == "0-2-0-1-2-1-0-0+1"


def test_a_text_that_names_no_architecture_is_refused():
    for text, message in (
        ("", "must be one number a slot, joined by '-'"),
        ("1-0-", "must be one number a slot"),
        ("a-0-1", "must be one number a slot"),
        ("-1-0-1", "must be one number a slot"),
        ("1,0,1", "must be one number a slot"),
        ("1-0+-1", "must be one number a slot"),
        ("1-0", "one entry for each of the 3 slots"),
        ("1-0-1-1", "one entry for each of the 3 slots"),
        ("2-0-1", r"entry 2 must name branches from 0 to 1.*slot s0 has 0 to 1: a, b"),
        ("1-0-3", r"entry 3 must name branches from 0 to 2.*slot s2 has 0 to 2: a, b, c"),
        ("1-1+1-0", r"entry \(1, 1\) must name .*none of them twice"),
        ("1-0+3-0", r"entry \(0, 3\) must name branches from 0 to 2"),
    ):
        with pytest.raises(ArchitectureError, match=f"architecture=.*{message}"):
            Slots(2, 3, 3).decode(text)
    for text in ("0201210", "020121000", "02012103", "0201210x", "0+1", "0 2 0 1 2 1 0 0"):
        with pytest.raises(ArchitectureError, match="architecture="):
            build_space(MacroSettings()).decode(text)


def test_an_architecture_that_does_not_fit_is_refused():
    space = Slots(2, 3)
    for architecture in ((), (0,), (0, 0, 0), (2, 0), (-1, 0), (0, ()), (0, (1, 1)), (0, (0, 3))):
        for use in (space.validate, space.encode, lambda a: list(space.neighbors(a))):
            with pytest.raises(ArchitectureError, match="architecture="):
                use(architecture)


@examples
@given(spaces_with_architecture())
def test_neighbors_differ_in_one_slot_each_once(pair):
    space, architecture = pair
    found = list(space.neighbors(architecture))
    several = sum(isinstance(entry, tuple) for entry in architecture)
    assert len(found) == len(set(found)) == sum(len(s.choices) - 1 for s in space.slots) + several
    for neighbor in found:
        assert distance(space.validate(neighbor), architecture) == 1


def test_an_architecture_is_not_its_own_neighbor():
    assert list(Slots(3).neighbors(((1,),))) == [(0,), (2,)]


@examples
@given(spaces_with_architecture(), st.integers(0, 100))
def test_mutate_changes_exactly_one_slot(pair, seed):
    space, architecture = pair
    mutated = space.mutate(architecture, torch.Generator().manual_seed(seed))
    assert space.validate(mutated)
    assert distance(mutated, architecture) == bool(list(space.neighbors(architecture)))
    assert mutated == space.mutate(architecture, torch.Generator().manual_seed(seed))


def test_mutate_reaches_every_neighbor():
    space, random = Slots(3, 1, 4), torch.Generator().manual_seed(0)
    reached = {space.mutate((0, 0, 0), random) for _ in range(200)}
    assert reached == set(space.neighbors((0, 0, 0)))


def test_describe_names_the_choices():
    space = build_space(ChainSettings(widths=[4], depths=[3], strides=[1], candidates=["skip", "conv3"]))
    assert space.describe((1, 0, (0, 1))) == "conv3, skip, skip+conv3"


SPACES = {
    "two_branch": TwoBranchSettings(branches=3),
    "chain_sum": ChainSettings(widths=[4], depths=[2], strides=[1]),
    "chain_concat": ChainSettings(widths=[4], depths=[2], strides=[1], merge="concat"),
    "macro": MacroSettings(),
}


def test_a_seed_alone_gives_the_weights():
    for name, chosen in SPACES.items():
        space = build_space(chosen)
        before = torch.get_rng_state()
        first, other = space.supernet(seed=3).state_dict(), space.supernet(seed=4).state_dict()
        assert torch.equal(before, torch.get_rng_state()), name
        torch.manual_seed(99)
        again = space.supernet(seed=3).state_dict()
        assert list(first) == list(again), name
        assert all(torch.equal(first[key], again[key]) for key in first), name
        assert any(not torch.equal(first[key], other[key]) for key in first), name


def test_channels_image_size_and_classes_follow_the_data():
    for chosen in SPACES.values():
        space = build_space(chosen, channels=1, image_size=16, classes=7)
        supernet, x = space.supernet().eval(), torch.randn(2, 1, 16, 16)
        for entry in (0, 2, (0, 1), (2, 0)):
            assert supernet(x, tuple(entry for _ in space.slots)).shape == (2, 7), chosen


def test_chain_has_the_stages_it_is_told():
    settings = ChainSettings(widths=[4, 8], depths=[2, 1], strides=[2, 2], stem_stride=1, candidates=["conv3", "skip"])
    space = build_space(settings)
    supernet, shapes = space.supernet().eval(), []
    for block in supernet.blocks:
        block.register_forward_hook(lambda _, args, y: shapes.append(tuple(y.shape[1:])))
    supernet(torch.randn(1, 3, 32, 32), (0, 1, 0))
    assert shapes == [(4, 16, 16), (4, 16, 16), (8, 8, 8)]
    assert [slot.choices for slot in space.slots] == [("conv3", "skip")] * 3


def test_two_branch_is_the_network_of_the_question():
    supernet = build_space(TwoBranchSettings(branches=2)).supernet()
    shapes = {name: tuple(p.shape) for name, p in supernet.named_parameters()}
    branch = {"0.weight": (6, 3, 5, 5), "0.bias": (6,), "3.weight": (16, 6, 5, 5), "3.bias": (16,)}
    for i in (0, 1):
        assert {k.removeprefix(f"mix.branches.{i}."): v for k, v in shapes.items() if f"branches.{i}." in k} == branch
        assert shapes[f"fc1.weights.{i}"] == (120, 400)
    assert shapes["fc2.weight"] == (84, 120)
    assert shapes["fc3.weight"] == (10, 84)
    wide = build_space(TwoBranchSettings(width=3)).supernet()
    assert wide.mix.branches[0][3].weight.shape == (48, 18, 5, 5)


def test_images_too_small_for_two_branch_are_refused():
    with pytest.raises(SpaceError, match=r"data\.image_size=15: must be at least 16 for space two_branch"):
        build_space(TwoBranchSettings(), image_size=15)
    space = build_space(TwoBranchSettings(), image_size=16)
    assert space.supernet()(torch.randn(1, 3, 16, 16), (1,)).shape == (1, 10)


def test_an_unknown_space_or_operation_is_refused():
    with pytest.raises(SettingError, match=r"space\.name=grid: is not a known space"):
        build_space(SpaceSettings(name="grid"))
    with pytest.raises(SettingError, match=r"space\.candidates=conv4: is not a known operation"):
        build_space(ChainSettings(candidates=["conv4"])).supernet()


def test_settings_out_of_range_are_refused():
    for make in (
        lambda: TwoBranchSettings(branches=0),
        lambda: TwoBranchSettings(width=-1),
        lambda: ChainSettings(widths=[4]),
        lambda: ChainSettings(widths=[], depths=[], strides=[]),
        lambda: ChainSettings(depths=[2, 0]),
        lambda: ChainSettings(candidates=[]),
        lambda: ChainSettings(merge="product"),
        lambda: ChainSettings(stem_stride=0),
        lambda: CustomSettings(factory="my_net"),
        lambda: CustomSettings(factory="my_net:"),
    ):
        with pytest.raises(SettingError, match=r"^space\.\w+.*=.*: .+; .+") as error:
            make()
        assert isinstance(error.value, NasError)
        assert "\n" not in str(error.value)
