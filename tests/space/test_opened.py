"""Architectures with several open branches a slot are values as those with one are."""

from collections import Counter

import pytest
import torch
from support.references import Slots

from nas.errors import ArchitectureError, SettingError
from nas.settings import CellSettings, ChainSettings
from nas.space import build_space, in_order

SPACE = Slots(3, 1, 4).opened([1, 2])


def test_an_opened_space_has_just_its_numbers():
    every = list(SPACE.enumerate())
    assert len(every) == len(set(every)) == SPACE.size == (3 + 3) * 1 * (4 + 6)
    assert every == sorted(every, key=in_order)
    assert SPACE.entries(0) == (0, (0, 1), (0, 2), 1, (1, 2), 2)
    for architecture in every:
        assert SPACE.decode(SPACE.encode(architecture)) == architecture
        near = list(SPACE.neighbors(architecture))
        assert len(near) == len(set(near)) == 5 + 0 + 9
        assert all(sum(a != b for a, b in zip(architecture, other, strict=True)) == 1 for other in near)
        assert set(near) <= set(every)
    assert SPACE.decode(SPACE.example)
    wide = Slots(*[12] * 3).opened([6])
    assert wide.size == 924**3
    assert wide.decode(wide.example)


def test_each_number_then_each_set_is_equally_likely():
    draws = 6000
    for numbers in ([1, 2], [2], [1, 3]):
        space, random = Slots(4, 5).opened(numbers), torch.Generator().manual_seed(3)
        drawn = space.sample_many(draws, random)
        for slot in (0, 1):
            counts, entries = Counter(path[slot] for path in drawn), space.entries(slot)
            sizes = Counter(len(in_order((entry,))[0]) for entry in entries)
            expected = {e: draws / len(numbers) / sizes[len(in_order((e,))[0])] for e in entries}
            assert set(counts) <= set(entries)
            chi_square = sum((counts[e] - expected[e]) ** 2 / expected[e] for e in entries)
            assert chi_square < 36.1  # at most 14 degrees of freedom, p = 0.001


def test_one_open_branch_is_the_space_as_it_was():
    space = Slots(3, 4)
    assert space.opened([1]) is space
    again = space.opened([2]).opened([1])
    assert again.sample_many(9, torch.Generator().manual_seed(1)) == space.sample_many(
        9, torch.Generator().manual_seed(1)
    )
    assert again.validate(((0, 1, 2), 0)) == ((0, 1, 2), 0)


def test_another_number_of_open_branches_is_refused():
    for text in ("0-0-0+1+2", "0+1+2-0-0"):
        with pytest.raises(
            ArchitectureError, match=r"opens 3 of slot s\d, where 1 or 2 may be open; write for example 1-0-3$"
        ):
            SPACE.decode(text)
    with pytest.raises(ArchitectureError, match="entry 4 must name branches from 0 to 3"):
        SPACE.validate((0, 0, 4))
    for numbers, rule in (
        ([2], r"slot s1 of space slots has only 1; add 1, as in gate.open=\[1,2\]"),
        ([1, 5], "no slot of space slots has 5 branches; the largest has 4; write numbers up to 4"),
    ):
        with pytest.raises(SettingError, match=rf"^gate.open=.*: {rule}$"):
            SPACE.opened(numbers)
    with pytest.raises(
        SettingError, match=r"gate.open=.*: must be 1 in space cell, where several architectures name one"
    ):
        build_space(CellSettings()).opened([1, 2])


def test_a_slot_with_too_many_entries_is_not_enumerated():
    space = build_space(ChainSettings(candidates=["conv1"] * 40)).opened([4])
    assert space.sample_many(2, torch.Generator())
    with pytest.raises(SettingError, match=r"gate.open=\[4\]: slot slot0 then has 91,390 entries; 20,000 can be enum"):
        list(space.enumerate())
