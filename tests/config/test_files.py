"""The files in conf/ and the dataclasses in nas/settings say the same."""

import math
import shutil
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import nas
from nas import settings
from nas.config import conf_folder, register, settings_from
from nas.config.compose import SCHEMAS
from nas.errors import SettingError

CONF = Path(conf_folder())
CHOICES = [(group, path.stem) for group in SCHEMAS for path in sorted((CONF / group).glob("*.yaml"))]
VERBS = {
    "train": settings.TrainRunSettings,
    "score": settings.ScoreSettings,
    "search": settings.SearchRunSettings,
    "rank": settings.RankRunSettings,
    "export": settings.ExportSettings,
    "bench": settings.BenchSettings,
}
NEEDED = {"fixed": {"architecture": "0"}, "folder": {"root": "here"}, "custom": {"factory": "pkg.net:Net"}}
"""What a choice cannot do without."""


def composed(verb, *overrides):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(verb, list(overrides))


def of_train(*overrides):
    return settings_from(composed("train", *overrides), settings.TrainRunSettings)


def schema_of(group, choice):
    return SCHEMAS[group][choice]


def keys(data, prefix=""):
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def names(schema, prefix=""):
    for name, kind in get_type_hints(schema).items():
        if is_dataclass(kind):
            yield from names(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def contents(path):
    data = yaml.safe_load(path.read_text())
    return {key: value for key, value in data.items() if key not in ("defaults", "hydra")}


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_a_choice_of_the_command_line_equals_its_dataclass(group, choice):
    needed = NEEDED.get(choice, {})
    found = getattr(of_train(f"{group}={choice}", *(f"{group}.{k}={v}" for k, v in needed.items())), group)
    expected = schema_of(group, choice)(**needed)
    assert found == expected
    assert choice == expected.name


def test_the_command_line_without_words_equals_the_dataclass():
    assert replace(of_train(), run="x") == settings.TrainRunSettings(run="x")
    assert settings_from(composed("bench"), settings.BenchSettings) == settings.BenchSettings()


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_a_file_of_a_group_has_every_setting_and_no_other(group, choice):
    data = contents(CONF / group / f"{choice}.yaml")
    known = {field.name for field in fields(schema_of(group, choice))}
    assert known - {"name"} <= data.keys() <= known


@pytest.mark.parametrize(("verb", "schema"), VERBS.items())
def test_a_file_of_a_verb_has_every_setting_outside_the_groups_and_no_other(verb, schema):
    in_groups = tuple(f"{group}." for group in SCHEMAS)
    expected = [name for name in names(schema) if not name.startswith(in_groups) and name not in SCHEMAS]
    assert sorted(keys(contents(CONF / f"{verb}.yaml"))) == sorted(expected)


def test_settings_are_plain_data_all_the_way_down():
    kwargs = "space.kwargs={a: [1, {b: 2}], c: {d: x}}"
    found = of_train("space=custom", "space.factory=pkg.net:Net", kwargs)
    assert found.space.kwargs == {"a": [1, {"b": 2}], "c": {"d": "x"}}

    def walk(value):
        assert not OmegaConf.is_config(value)
        if is_dataclass(value):
            value = vars(value)
        assert type(value) in (dict, list, int, float, str, bool)
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(part)

    walk(found)
    chain = of_train("space=chain", "space.widths=[8]", "space.depths=[1]", "space.strides=[1]").space
    assert type(chain.widths) is type(chain.candidates) is list
    assert chain == settings.ChainSettings(widths=[8], depths=[1], strides=[1])


@pytest.mark.parametrize("words", [["space.kwargs.a=1"], ["+space.kwargs.a=1"], ["space.kwargs={a: 1}"]])
def test_the_arguments_of_a_users_network_are_free(words):
    assert of_train("space=custom", "space.factory=pkg.net:Net", *words).space.kwargs == {"a": 1}


def test_conf_of_a_checkout_is_used():
    assert Path(nas.__file__).parent.parent / "conf" == CONF


def test_conf_of_a_wheel_is_used_where_there_is_no_checkout(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "nas"
    shutil.copytree(CONF, package / "conf")
    monkeypatch.setattr(nas, "__file__", str(package / "__init__.py"))
    assert conf_folder() == str(package / "conf")
    (tmp_path / "site-packages" / "conf").mkdir()  # of some other project
    assert conf_folder() == str(package / "conf")


FLOATS = [
    (schema, name)
    for schema in filter(is_dataclass, (getattr(settings, name) for name in settings.__all__))
    for name, kind in get_type_hints(schema).items()
    if kind is float
]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
@pytest.mark.parametrize(("schema", "name"), FLOATS, ids=lambda part: getattr(part, "__name__", part))
def test_no_setting_takes_what_is_not_finite_or_negative(schema, name, value):
    with pytest.raises(SettingError, match=rf"\.{name}={value}: must .*; write for example \w+\.{name}="):
        schema(**{name: value})


def test_every_example_in_a_rule_is_itself_allowed():
    for schema, name in FLOATS:
        with pytest.raises(SettingError) as caught:
            schema(**{name: math.nan})
        schema(**{name: float(caught.value.remedy.rpartition("=")[2])})


@pytest.mark.parametrize("word", ["space.name=chain", "gate.name=fair", "data.name=cifar10", "optimizer.name=adamw"])
def test_a_group_is_not_chosen_by_its_name(word):
    group, name = word.split(".name=")
    with pytest.raises(SettingError, match=rf"{group}\.name={name}: is not chosen by its name; write {group}={name}"):
        of_train(word)
