"""The files in conf/ explain the settings, whose defaults stand in nas/settings alone."""

import math
import re
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
from nas.config.compose import VERBS as SCHEMAS_OF_VERBS
from nas.errors import SettingError

CONF = Path(conf_folder())
CHOICES = [(group, path.stem) for group in SCHEMAS for path in sorted((CONF / group).glob("*.yaml"))]
VERBS = {verb: type(schema) for verb, schema in SCHEMAS_OF_VERBS.items()}
NEEDED = {
    "fixed": {"architecture": "0"},
    "folder": {"root": "here"},
    "arrays": {"root": "x.npz"},
    "model": {"model": "resnet18"},
    "custom": {"factory": "pkg.net:Net"},
}
"""What a choice cannot do without."""


def composed(verb, *overrides):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(verb, list(overrides))


def of_train(*overrides):
    return settings_from(composed("train", *overrides), settings.TrainRunSettings)


def names(schema, prefix=""):
    for name, kind in get_type_hints(schema).items():
        if is_dataclass(kind):
            yield from names(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_choices_of_the_command_line_equal_their_dataclasses():
    for group, choice in CHOICES:
        needed = NEEDED.get(choice, {})
        words = (f"{group}={choice}", *(f"{group}.{key}={value}" for key, value in needed.items()))
        found = getattr(of_train(*words), group)
        assert found == SCHEMAS[group][choice](**needed), words
        assert found.name == choice, words


def test_verbs_without_words_equal_their_dataclasses():
    for verb, schema in VERBS.items():
        found = settings_from(composed(verb), schema)
        known = {"run": "x"} if hasattr(found, "run") else {}
        assert replace(found, **known) == schema(**known), verb


def named(path):
    """Settings that the comments of a file explain: ``# train:`` and, indented below it, ``#   epochs: ...``."""
    found, above = [], []
    for spaces, key in re.findall(r"^# ( *)(\w+):", path.read_text(), re.MULTILINE):
        above = [*above[: len(spaces) // 2], key]
        found.append(".".join(above))
    return found


def test_files_name_every_setting_and_no_other():
    for group, choice in CHOICES:
        expected = {field.name for field in fields(SCHEMAS[group][choice])} - {"name"}
        assert sorted(named(CONF / group / f"{choice}.yaml")) == sorted(expected), (group, choice)
    for verb, schema in VERBS.items():
        expected = set()
        for name in names(schema):
            parts = name.split(".")
            expected |= set() if parts[0] in SCHEMAS else {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
        assert sorted(named(CONF / f"{verb}.yaml")) == sorted(expected), verb


def test_files_repeat_no_default():
    for path in [*(CONF / f"{verb}.yaml" for verb in VERBS), *(CONF / g / f"{c}.yaml" for g, c in CHOICES)]:
        assert yaml.safe_load(path.read_text()).keys() <= {"defaults", "run", "hydra"}, path


def test_a_value_in_a_file_becomes_the_default(tmp_path):
    shutil.copytree(CONF, tmp_path / "conf")
    for name, more in ("train.yaml", "train: {epochs: 3}\n"), ("data/digits.yaml", "crop: 2\n"):
        with (tmp_path / "conf" / name).open("a") as file:
            file.write(more)
    register()
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        found = settings_from(compose("train"), settings.TrainRunSettings)
    assert (found.train.epochs, found.train.batch_size) == (3, 64)
    assert (found.data.crop, found.data.flip) == (2, False)


def test_settings_are_plain_data_all_the_way_down():
    kwargs = "space.kwargs={a: [1, {b: 2}], c: {d: x}}"
    found = of_train("space=custom", "space.factory=pkg.net:Net", kwargs)
    assert found.space.kwargs == {"a": [1, {"b": 2}], "c": {"d": "x"}}

    def walk(value):
        assert not OmegaConf.is_config(value)
        if is_dataclass(value):
            value = vars(value)
        assert type(value) in (dict, list, int, float, str, bool, type(None))
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(part)

    walk(found)
    chain = of_train("space=chain", "space.widths=[8]", "space.depths=[1]", "space.strides=[1]").space
    assert type(chain.widths) is type(chain.candidates) is list
    assert chain == settings.ChainSettings(widths=[8], depths=[1], strides=[1])


def test_the_arguments_of_a_users_network_are_free():
    for word in "space.kwargs.a=1", "+space.kwargs.a=1", "space.kwargs={a: 1}":
        assert of_train("space=custom", "space.factory=pkg.net:Net", word).space.kwargs == {"a": 1}, word


def test_conf_of_a_checkout_is_used():
    assert Path(nas.__file__).parent.parent / "conf" == CONF


def test_conf_of_a_wheel_is_used_without_checkout(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "nas"
    shutil.copytree(CONF, package / "conf")
    monkeypatch.setattr(nas, "__file__", str(package / "__init__.py"))
    assert conf_folder() == str(package / "conf")
    (tmp_path / "site-packages" / "conf").mkdir()  # of some other project
    assert conf_folder() == str(package / "conf")


def test_no_number_is_negative_infinite_or_absurd():
    wrong = {float: (math.nan, math.inf, -math.inf, -1.0), int: (-1, 2**53 + 1)}
    seen = 0
    for schema in filter(is_dataclass, (getattr(settings, name) for name in settings.__all__)):
        needed = {"factory": "a:b"} if schema is settings.CustomOptimizerSettings else {}
        for name, kind in get_type_hints(schema).items():
            for value in wrong.get(kind, ()):
                with pytest.raises(SettingError, match=rf"\b{name}={value}: must .*; ") as caught:
                    schema(**needed, **{name: value})
                if caught.value.remedy.startswith("write for example"):
                    schema(**needed, **{name: kind(caught.value.remedy.rpartition("=")[2])})
                seen += 1
    assert seen > 100


def test_a_group_is_not_chosen_by_its_name():
    for word in "space.name=chain", "gate.name=fair", "data.name=cifar10", "optimizer.name=adamw":
        group, name = word.split(".name=")
        rule = rf"{group}\.name={name}: is not chosen by its name; write {group}={name}"
        with pytest.raises(SettingError, match=rule):
            of_train(word)
