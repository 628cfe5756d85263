"""Tables show names and figures whole in 100 columns; bars are drawn where they can be, and not too often."""

import io
import sys
from types import SimpleNamespace

import torch

from nas.console import WIDTH, ProgressBar, ResultTable, new_console, track
from nas.settings import CellSettings, ChainSettings, MacroSettings
from nas.space import build_space


def printed(table, width=None):
    text = io.StringIO()
    console = new_console(text)
    console.width = width or console.width
    console.print(table)
    return text.getvalue().splitlines()


def test_architectures_of_every_space_fit_in_100_columns():
    for settings in ChainSettings(), MacroSettings(), CellSettings():
        space = build_space(settings)
        sampled = space.sample_many(12, torch.Generator().manual_seed(0))
        table = ResultTable("Best by rank", ["architecture", "choices"], ["naswot", "synflow", "rank sum"])
        for index, architecture in enumerate(sampled):
            table.add_row(space.encode(architecture), space.describe(architecture), f"{index}.25", "-1.2e+05", "7")
        table.caption = "and 1,000 more " * 20
        lines = printed(table)
        assert lines[0] == "Best by rank"
        assert max(map(len, lines)) <= WIDTH, settings
        for index, architecture in enumerate(sampled):
            for text in (space.encode(architecture), space.describe(architecture), f"{index}.25"):
                assert sum(text in line for line in lines) >= 1, text


def test_long_names_stand_below_with_their_row_number():
    table = ResultTable("t", ["short", "long"], ["figure"])
    for k in range(3):
        table.add_row(f"s{k}", f"{k}" * 60, f"{k}.5", style="bold")
    table.add_section()
    wide, narrow = printed(table), printed(table, 40)
    assert [line for line in wide if "s1" in line] == [line for line in wide if "1" * 60 in line]
    assert f"  2  {'1' * 60}" in narrow
    (row,) = [line for line in narrow if "s1" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["2", "s1", "1.5"]
    assert "2" * 60 not in "".join(line for line in narrow if "│" in line)


def test_markup_and_long_lines_are_printed_unchanged():
    text = io.StringIO()
    new_console(text).print("[conv3,skip] " * 30)
    assert text.getvalue() == "[conv3,skip] " * 30 + "\n"
    table = ResultTable("t", ["name"], ["x"])
    table.add_row("[red]a", "1")
    assert any("[red]a" in line for line in printed(table))


def test_a_bar_is_drawn_only_on_a_terminal(monkeypatch):
    for terminal, shown in (True, True), (True, False), (False, True):
        text = io.StringIO()
        console = new_console(text)
        console._force_terminal = terminal
        assert list(track(range(3), "scoring", 3, shown, console)) == [0, 1, 2]
        assert ("3/3" in text.getvalue()) == (terminal and shown)


def test_a_notebook_shows_one_bar(monkeypatch):
    shown = []
    output = SimpleNamespace(update=lambda bar: shown.append(("again", bar)))
    display = SimpleNamespace(display=lambda bar, display_id: shown.append(("first", bar)) or output)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    console = new_console(io.StringIO())
    console.is_jupyter = True
    with ProgressBar("training", 3, console=console) as bar:
        for done in (1, 2, 3):
            bar.update(done, f"loss {done}")
    assert [how for how, _ in shown] == ["first", "again", "again"]  # of 1 and of 3; 2 comes too soon
    assert "3/3 loss 3" in "".join(printed(shown[-1][1]))
    assert len({id(one) for _, one in shown}) == 1


def test_bars_redraw_at_most_five_times_a_second(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("nas.console.perf_counter", lambda: now[0])
    console = new_console(io.StringIO())
    console._force_terminal = True
    drawn = []
    with ProgressBar("scoring", 1000, console=console) as bar:
        monkeypatch.setattr(bar._bar, "update", lambda *_, completed, **__: drawn.append(completed))
        for done in range(1, 1001):
            now[0] += 0.01
            bar.update(done)
    assert len(drawn) <= 52
    assert drawn[-1] == 1000
