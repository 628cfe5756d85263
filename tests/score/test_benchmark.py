"""Benchmark tables: what is read, and what is refused in one line."""

import json
from dataclasses import asdict

import pytest
import torch

from nas.errors import DataError
from nas.score.benchmark import TABLE, load_table, table_space
from nas.settings import ChainSettings, CustomSettings, MacroSettings
from nas.space import build_space

SETTINGS = ChainSettings(widths=[4], depths=[2], strides=[1], candidates=["skip", "conv1", "conv3"])
CHAIN, MACRO = build_space(SETTINGS), build_space(MacroSettings())
HEAD = f"# settings: {json.dumps({'space': asdict(SETTINGS), 'train': {'epochs': 1}})}\n# versions: {{}}\n"


@pytest.fixture
def written(tmp_path):
    """A file with this text; its path as it would be given."""

    def write(text, name="table.csv"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def of_macro(**accuracies):
    return json.dumps({k: {"test_acc": v, "mean_acc": 0, "params": 1, "flops": 1} for k, v in accuracies.items()})


def test_a_csv_is_read_with_its_settings(written):
    truth = load_table(
        written(HEAD + "architecture,accuracy_0,accuracy_1\n0-1,0.5,0.7\n\n2-0, 0.25 ,1\n"), CHAIN, SETTINGS
    )
    assert truth.architectures == [(0, 1), (2, 0)]
    assert truth.accuracies.dtype == torch.float64
    assert truth.accuracies.tolist() == [[0.5, 0.7], [0.25, 1]]
    assert truth.mean.tolist() == pytest.approx([0.6, 0.625])
    assert truth.settings["train"] == {"epochs": 1}


def test_comments_and_byte_order_marks_are_optional(written):
    for text in ("architecture,accuracy\n0-1,0.5\n", "\ufeffarchitecture,accuracy\r\n0-1,0.5\r\n"):
        truth = load_table(written(text), CHAIN, SETTINGS)
        assert (truth.architectures, truth.accuracies.tolist(), truth.settings) == ([(0, 1)], [[0.5]], None)


def test_the_published_json_is_read(written):
    source = written(of_macro(**{"02012100": [89.5, 88.9, 89.2], "11111221": [92, 92.5, 92.25]}), "macro.json")
    truth = load_table(source, MACRO, MacroSettings())
    assert truth.architectures == [(0, 2, 0, 1, 2, 1, 0, 0), (1, 1, 1, 1, 1, 2, 2, 1)]
    assert truth.accuracies.tolist() == [pytest.approx([0.895, 0.889, 0.892]), pytest.approx([0.92, 0.925, 0.9225])]
    assert table_space(source) is None


def test_percent_and_fractions_give_the_same_truth(written):
    rows = [("0-1", 0.5), ("1-1", 0.25), ("2-2", 1.0)]
    texts = ["architecture,accuracy\n" + "".join(f"{a},{v * k}\n" for a, v in rows) for k in (1, 100)]
    fraction, percent = (load_table(written(text), CHAIN) for text in texts)
    assert torch.equal(fraction.accuracies, percent.accuracies)


def test_a_subset_keeps_rows_together(written):
    truth = load_table(written("architecture,a,b\n0-0,0.1,0.2\n0-1,0.3,0.4\n0-2,0.5,0.6\n"), CHAIN)
    some = truth.subset(torch.tensor([0, 2]))
    assert (some.architectures, some.accuracies.tolist()) == ([(0, 0), (0, 2)], [[0.1, 0.2], [0.5, 0.6]])


def test_rows_may_have_different_numbers_of_trainings(written):
    truth = load_table(written("architecture,a,b,c\n0-0,10,20,60\n0-1,,40\n0-2,50,,70\n"), CHAIN)
    assert truth.mean.tolist() == pytest.approx([0.3, 0.4, 0.6])
    assert truth.trainings.tolist() == [3, 1, 2]
    assert truth.accuracies.isfinite().all()
    assert truth.subset(torch.tensor([2, 1])).mean.tolist() == pytest.approx([0.6, 0.4])
    macro = load_table(written(of_macro(**{"02012100": [90], "11111221": [92, 93]}), "macro.json"), MACRO)
    assert (macro.mean.tolist(), macro.trainings.tolist()) == ([0.9, pytest.approx(0.925)], [1, 2])


HEADER = "architecture,accuracy\n"
WRONG = {
    "": "has no architectures; give a table",
    HEADER: "has no architectures; give a table",
    "0-1,0.5\n": r"table.csv:1: the first row must be the header: architecture,accuracy\[",
    "# a\narchitecture\n0-1\n": "table.csv:2: the first row must be the header",
    HEADER + "0-1,0.5,0.6\n": "table.csv:2: has 3 cells, the header has 2; name a column for each training",
    "# a\n" + HEADER + "0-1,0.5\n\n1-1,x\n": "table.csv:5: 'x' is not an accuracy: a number from 0 to 1, or to 100",
    HEADER + "0-1,nan\n": "table.csv:2: 'nan' is not an accuracy",
    HEADER + "0-1,-0.1\n": "table.csv:2: '-0.1' is not an accuracy",
    HEADER + "0-1,100.5\n": "table.csv:2: '100.5' is not an accuracy",
    HEADER + "0-1,\n": "table.csv:2: has no accuracy; give the architecture one, or leave the row out",
    HEADER + "0-1\n": "table.csv:2: has no accuracy",
    HEADER + "0-1,0.5\n1-1,50\n": r"accuracies above 1 \(first at 3\) and others not above 1 \(first at 2\); write all",
    HEADER + "0-1,0.5\n1-1,0.5\n0-1,0.6\n": "table.csv:4: architecture 0-1 occurs twice, first at 2; keep one row",
    HEADER + "0-1,0.5\n0-3,0.5\nx,0.5\n": "2 of 3 architectures do not fit space chain, first 0-3 at 3: entry 3 must",
    HEADER + "02012100,0.5\n": "1 of 1 architectures do not fit space chain, first 02012100 at 2: must have one entry",
    **{
        f'# settings: {{"space": {space}}}\n{HEADER}0-1,0.5\n': words
        for space, words in {
            '{"name": "chain", "size": 3}': "has space.size=3 in its head, which",
            '{"name": "chin"}': "has space=chin in its head, which is unknown to",
            "3": "table.csv:1: its settings are not a JSON object",
            '{"name": ["chain"]}': r"has space=\['chain'\] in its head, which is",
            '{"name": "chain", "widths": 5}': r"has space.widths=5 in its head, which must be list\[int\]",
        }.items()
    },
    f"# settings: {'[' * 100_000}\n" + HEADER: "table.csv:1: its settings are not a JSON object",
    HEADER + '0-1,"0.5\n' + "0-1,0.5\n" * 20_000: r"table.csv:\d+: is not CSV \(field larger .*; look for a quotation",
    "# settings: {oops\n" + HEADER + "0-1,0.5\n": "table.csv:1: its settings are not a JSON object",
}


def test_a_wrong_csv_is_one_line(written):
    for text, words in WRONG.items():
        with pytest.raises(DataError, match=words) as caught:
            load_table(written(text), CHAIN, SETTINGS)
        assert "\n" not in str(caught.value), words
        assert str(caught.value).startswith("truth="), words


WRONG_JSON = {
    "{": "is not JSON",
    "[1]": r'must read \{"02012100"',
    '{"02012100": 89.5}': r'macro.json:02012100: must read \{"02012100"',
    '{"02012100": {"test_acc": []}}': "macro.json:02012100: must read",
    of_macro(**{"02012100": [89.5, 89.1], "02012101": []}): "macro.json:02012101: must read .* a list of accuracies",
    of_macro(**{"02012100": [89.5, None]}): "macro.json:02012100: None is not an accuracy",
    of_macro(**{"02012100": [89.5, "x"]}): "macro.json:02012100: 'x' is not an accuracy",
    of_macro(**{"02012103": [89.5]}): "1 of 1 architectures do not fit space macro, first 02012103",
    '{"02012100": {"test_acc": [1.5]}, "02012100": {"test_acc": [2.5]}}': "architecture 02012100 occurs twice",
    '{"02012100": {"test_acc": [1' + "0" * 400 + "]}}": r"macro.json:02012100: 1000.*\.\.\..*000 is not an accuracy",
    "[" * 100_000: "is not JSON",
    "{}": "has no architectures",
}


def test_a_wrong_json_is_one_line(written):
    for text, words in WRONG_JSON.items():
        with pytest.raises(DataError, match=words):
            load_table(written(text, "macro.json"), MACRO)


def test_no_table_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*gone.csv; write truth=own for .*, or name"):
        load_table(str(tmp_path / "gone.csv"), CHAIN)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not a text file"):
        load_table(str(tmp_path / "bytes.csv"), CHAIN)


def test_a_table_of_another_space_names_what_differs(written, tmp_path):
    source = written(HEAD + HEADER + "0-1,0.5\n")
    other = ChainSettings(widths=[8], depths=[2], strides=[1], candidates=["skip", "conv1", "conv3"])
    with pytest.raises(DataError, match=r"was made with space.widths=\[4\] and not \[8\]; take the table"):
        load_table(source, build_space(other), other)
    with pytest.raises(DataError, match=r"was made with space\.name=chain and not macro"):
        load_table(source, MACRO, MacroSettings())
    short = written(HEAD.replace('"stem_stride": 2, ', "") + HEADER + "0-1,0.5\n", "short.csv")
    assert "stem_stride" not in (tmp_path / "short.csv").read_text()
    assert table_space(short) == SETTINGS
    assert load_table(short, CHAIN, SETTINGS).architectures == [(0, 1)]
    assert load_table(source, build_space(other)).architectures == [(0, 1)]  # nobody says what the space is


def test_a_tables_factory_is_not_called(written):
    space = {"name": "custom", "factory": "os:system", "kwargs": {"command": "false"}}
    source = written(f"# settings: {json.dumps({'space': space})}\n{HEADER}0-1,0.5\n")
    with pytest.raises(DataError, match=r"factory os:system in its head, .*; write space=custom space\.factory="):
        table_space(source)
    ours = CustomSettings(**space)  # named by the user too
    assert load_table(source, CHAIN, ours).architectures == [(0, 1)]


@pytest.mark.skipif(not TABLE.is_file(), reason="the table is not there yet")
def test_the_table_of_the_package_is_whole():
    found = table_space("own")
    space = build_space(found)
    truth = load_table("own", space, found)
    assert sorted(truth.architectures) == sorted(space.enumerate())
    assert truth.accuracies.shape == (256, 3)
    assert 0.2 < truth.accuracies.min() < truth.accuracies.max() < 0.8
    assert TABLE.stat().st_size < 20_000
