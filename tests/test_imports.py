"""Which room may import which: the order that DESIGN gives, held by a walk over all modules."""

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import nas

PACKAGE = Path(nas.__file__).parent
ORDER = (
    ("errors",),
    ("files",),
    ("console",),
    ("signals",),
    ("settings",),
    ("journal",),
    ("seeds", "eager"),
    ("state",),
    ("jac",),
    ("nn",),
    ("space",),
    ("data", "gate"),
    ("cost",),
    ("draw",),
    ("track",),
    ("dist",),
    ("checkpoint",),
    ("train",),
    ("score",),
    ("search",),
    ("rank",),
    ("export",),
    ("bench",),
    ("config",),
    ("cli",),
)
"""Left to right: a room imports from rooms before it; rooms side by side do not import each other."""
NARROWER = {"settings": {"errors"}, "seeds": {"errors", "settings"}, "jac": set(), "config": {"errors", "settings"}}
"""Rooms that may import less than all that is left of them."""
PLAIN = {"errors", "files", "signals", "settings", "config", "cli"}
"""Rooms that are imported before anything is computed: a command line answers without torch."""
FILES = sorted(PACKAGE.rglob("*.py"))


@dataclass(frozen=True)
class Import:
    """One import statement."""

    target: str
    """``torch.nn``, ``nas.space``"""
    at: str
    """Where it stands, for the message."""
    in_function: bool
    for_types: bool
    """Under ``if TYPE_CHECKING``, so never carried out."""

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str:
    """``space`` for ``nas.space.base``; nothing for ``nas`` itself."""
    return name.split(".")[1] if "." in name else ""


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path) -> list[Import]:
    found = []

    def walk(node: ast.AST, in_function: bool, for_types: bool) -> None:
        targets = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [name if name.startswith("nas.") and is_module(name) else node.module for name in inside]
        found.extend(
            Import(target, f"{path.relative_to(PACKAGE.parent)}:{node.lineno}", in_function, for_types)
            for target in targets
        )
        in_function |= isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        guarded = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            walk(child, in_function, for_types or (guarded and child not in node.orelse))

    walk(ast.parse(path.read_text()), in_function=False, for_types=False)
    return found


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_room_imports_from_its_left_alone(path):
    place = {name: i for i, names in enumerate(ORDER) for name in names}
    own = room(module_name(path))
    assert own in place or not own, f"nas.{own} has no place in ORDER: give it one, and DESIGN too"
    for one in imports(path):
        if one.top != "nas" or room(one.target) in ("", own):
            continue
        other = room(one.target)
        allowed = NARROWER.get(own, {name for name in place if own and place[name] < place[own]})
        if own not in ("config", "cli"):
            allowed = allowed - {"config"}
        assert other in allowed, f"{one.at}: nas.{own or '__init__'} imports {one.target}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_hydra_is_imported_in_config_and_cli_alone(path):
    own = room(module_name(path))
    for one in imports(path):
        if one.top in ("hydra", "omegaconf"):
            assert own in ("config", "cli"), f"{one.at}: {one.target}"


def test_settings_and_errors_need_the_standard_library_alone():
    for path in FILES:
        if room(module_name(path)) in ("settings", "errors"):
            for one in imports(path):
                assert one.top in sys.stdlib_module_names or room(one.target) in ("settings", "errors"), one.at


def test_jac_needs_torch_alone():
    for path in FILES:
        if room(module_name(path)) == "jac":
            for one in imports(path):
                assert one.top in sys.stdlib_module_names | {"torch"} or room(one.target) == "jac", one.at


def test_the_command_line_imports_working_rooms_inside_functions():
    light = {"hydra", "omegaconf", "nas"} | sys.stdlib_module_names
    for path in FILES:
        if room(module_name(path)) in ("cli", "config"):
            for one in imports(path):
                if not (one.in_function or one.for_types):
                    assert one.top in light, f"{one.at}: {one.target}"
                    assert one.top != "nas" or room(one.target) in PLAIN | {""}, f"{one.at}: {one.target}"


VERBS = [module_name(p) for p in FILES if p.parent.name == "cli" and p.stem not in ("__init__", "entry")]


def test_importing_a_verb_does_not_import_torch():
    assert "nas.cli.train" in VERBS
    code = f"import sys, nas.config, {', '.join(VERBS)}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    run = [sys.executable, "-c", code]
    loaded = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert "nas" in loaded
    assert not {"torch", "torchvision", "numpy", "sklearn", "tensorboard"} & set(loaded)


def caught(handler: ast.ExceptHandler) -> list[str]:
    if handler.type is None:
        return ["everything"]
    return [
        ast.unparse(part) for part in (handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type])
    ]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_nothing_catches_every_exception(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert not {"everything", "Exception", "BaseException"} & set(caught(node)), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=module_name)
def test_an_init_hands_names_on_and_does_nothing(path):
    docstring, *rest = ast.parse(path.read_text()).body
    assert isinstance(docstring, ast.Expr)
    for node in rest:
        named = [ast.unparse(t) for t in node.targets] if isinstance(node, ast.Assign) else []
        hands_on = isinstance(node, ast.ImportFrom) or named in (["__all__"], ["__version__"])
        assert hands_on, f"{path}:{node.lineno}: {ast.unparse(node)}"
