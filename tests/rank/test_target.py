"""What a table of truth may decide by itself, and what only the user may."""

import json

import pytest

from nas.errors import DataError
from nas.rank import load_target
from nas.settings import CustomSettings, RankRunSettings


def test_the_factory_in_a_tables_head_is_not_called(tmp_path):
    called = tmp_path / "called"
    space = {"name": "custom", "factory": "os:system", "kwargs": {"command": f"touch {called}"}}
    table = tmp_path / "table.csv"
    table.write_text(f"# settings: {json.dumps({'space': space})}\narchitecture,a\n0,0.5\n1,0.6\n")
    with pytest.raises(DataError, match=r"names the factory os:system in its head, .* if you trust it"):
        load_target(RankRunSettings(truth=str(table)))
    assert not called.exists()


def test_a_custom_space_is_ranked_where_the_user_names_it_too(tmp_path):
    space = {"name": "custom", "factory": "support.exports:Stubborn"}
    table = tmp_path / "table.csv"
    table.write_text(f"# settings: {json.dumps({'space': space})}\narchitecture,a\n0,0.5\n1,0.6\n")
    ours = CustomSettings(factory="support.exports:Stubborn")
    assert load_target(RankRunSettings(truth=str(table), space=ours)).truth.architectures == [(0,), (1,)]
