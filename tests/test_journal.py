"""A journal gives back what was written, whoever is killed while writing, and never anything else."""

import json
import math

import pytest

from nas.errors import CheckpointError
from nas.journal import Journal

SETTINGS = {"seed": 0, "search": {"sampler": "tpe"}}
ENTRIES = [{"n": 0, "x": 0.1 + 0.2}, {"n": 1, "x": -math.inf}, {"n": 2, "text": "ä\n{}"}, {"n": 3, "deep": [{}, None]}]


def opened(folder, definition=SETTINGS, kind="nas-test", **how):
    """A journal, and the list that its entries are replayed into."""
    found = []

    def replay(entry):
        entry["n"] + 0
        found.append(entry)

    return Journal(folder / "j.log", kind, definition, replay, result=folder / "result.csv", **how), found


@pytest.fixture
def written(tmp_path):
    """The bytes of a journal with all entries."""
    journal, found = opened(tmp_path)
    assert not journal.path.exists()
    for entry in ENTRIES:
        journal.append(entry)
    journal.sync()
    assert found == ENTRIES
    return journal.path.read_bytes()


def test_entries_come_back_as_they_were_written(tmp_path, written):
    assert opened(tmp_path)[1] == ENTRIES


def test_a_cut_anywhere_loses_at_most_one_line(tmp_path, written):
    ends = [i + 1 for i, byte in enumerate(written) if byte == ord("\n")]
    for size in range(len(written)):
        (tmp_path / "j.log").write_bytes(written[:size])
        journal, found = opened(tmp_path)
        assert found == ENTRIES[: max(sum(end <= size for end in ends) - 1, 0)], size
        journal.append(*ENTRIES[len(found) :])
        assert found == ENTRIES, size
        assert journal.path.read_bytes() == written, size


def test_a_flipped_bits_error_names_its_line(tmp_path, written):
    for at in range(0, len(written), 3):
        if written[at : at + 1] == b"\n":
            continue
        damaged = bytearray(written)
        damaged[at] ^= 1
        (tmp_path / "j.log").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"journal=.*j\.log: .*; take another run=NAME") as error:
            opened(tmp_path)
        line = written[:at].count(b"\n") + 1
        assert f"line {line} is damaged" in str(error.value), at
        assert (tmp_path / "j.log").read_bytes() == damaged, at


def test_an_entry_that_makes_no_sense_is_damage(tmp_path, written):
    opened(tmp_path)[0].path.write_bytes(written)
    Journal(tmp_path / "j.log", "nas-test", SETTINGS, lambda _: None, result=tmp_path / "r").append({"m": 1})
    with pytest.raises(CheckpointError, match="line 6 is damaged"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("no journal\n", "line 1 is damaged"),
        ("[1]\n", "line 1 is damaged"),
        ('{"settings": {}}\n', "line 1 is damaged .*it has no checksum: another program or an older version wrote it"),
        ("[" * 10**5 + "\n", "line 1 is damaged"),
    ],
)
def test_what_is_no_journal_is_refused_and_left(tmp_path, text, rule):
    (tmp_path / "j.log").write_text(text)
    with pytest.raises(CheckpointError, match=rule):
        opened(tmp_path)
    assert (tmp_path / "j.log").read_text() == text


def test_other_settings_or_another_command_are_refused(tmp_path, written):
    rule = r"was begun with other settings \(search\.sampler: tpe -> random; seed: 0 -> 1\); take another run=NAME"
    with pytest.raises(CheckpointError, match=rule):
        opened(tmp_path, {"seed": 1, "search": {"sampler": "random"}})
    with pytest.raises(CheckpointError, match="is not a journal of nas-rank"):
        opened(tmp_path, kind="nas-rank")
    assert (tmp_path / "j.log").read_bytes() == written


def test_an_emptied_journal_beside_its_result_is_refused(tmp_path, written):
    (tmp_path / "j.log").write_bytes(b"")
    opened(tmp_path)[0].append(ENTRIES[0])  # without the result it is a beginning
    (tmp_path / "result.csv").touch()
    opened(tmp_path)
    (tmp_path / "j.log").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"is empty, but was not when result\.csv was written; restore it"):
        opened(tmp_path)


def test_each_process_sees_what_the_others_wrote(tmp_path):
    (one, ones), (two, twos) = opened(tmp_path, shared=True), opened(tmp_path, shared=True)
    one.append(ENTRIES[0])
    with two.lock:  # can be entered again
        two.append(ENTRIES[1])
    assert (ones, twos) == (ENTRIES[:1], ENTRIES[:2])
    one.refresh()
    assert ones == twos
    assert len((tmp_path / "j.log").read_text().splitlines()) == 1 + 2


def test_a_line_is_json_that_others_can_read(tmp_path, written):
    header, *lines = map(json.loads, written.splitlines())
    assert header["definition"] == SETTINGS
    assert [{k: v for k, v in line.items() if k != "crc32"} for line in lines] == ENTRIES
