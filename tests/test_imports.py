"""Which room may import which: the order that DESIGN gives, held by a walk over all modules."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nas

PACKAGE = Path(nas.__file__).parent
ORDER = (
    ("errors",),
    ("files", "plugin"),
    ("console",),
    ("signals",),
    ("settings",),
    ("journal",),
    ("seeds", "eager", "threads"),
    ("state", "sealed"),
    ("jac",),
    ("nn",),
    ("space",),
    ("data",),
    ("cost",),
    ("gate",),
    ("draw",),
    ("runs",),
    ("track",),
    ("dist",),
    ("checkpoint",),
    ("train",),
    ("score",),
    ("search",),
    ("rank",),
    ("export",),
    ("from_tensors",),
    ("bench",),
    ("config",),
    ("cli",),
)
"""Left to right: a room imports from rooms before it; rooms side by side do not import each other."""
NARROWER = {"settings": {"errors"}, "seeds": {"errors", "settings"}, "jac": set(), "config": {"errors", "settings"}}
"""Rooms that may import less than all that is left of them."""
PLAIN = {"errors", "files", "signals", "settings", "config", "cli"}
"""Rooms that are imported before anything is computed: a command line answers without torch."""


class Import(NamedTuple):
    """One import statement of a file."""

    own: str
    """The room that it stands in; empty for ``nas/__init__.py``."""
    target: str
    """``torch.nn``, ``nas.space``"""
    at: str
    in_function: bool
    for_types: bool
    """Under ``if TYPE_CHECKING``, so never carried out."""

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]

    @property
    def room(self) -> str:
        """``space`` for ``nas.space.base``; empty outside of the package, and for ``nas`` itself."""
        return [*self.target.split("."), ""][1] if self.top == "nas" else ""


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path, tree: ast.Module) -> list[Import]:
    found = []
    own = path.relative_to(PACKAGE).with_suffix("").parts[0].replace("__init__", "")

    def walk(node: ast.AST, in_function: bool, for_types: bool) -> None:
        targets = []
        at = f"{path.relative_to(PACKAGE.parent)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{at}: relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [name if name.startswith("nas.") and is_module(name) else node.module for name in inside]
        found.extend(Import(own, target, at, in_function, for_types) for target in targets)
        in_function |= isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        guarded = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            walk(child, in_function, for_types or (guarded and child not in node.orelse))

    walk(tree, in_function=False, for_types=False)
    return found


TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
IMPORTS = [one for path, tree in TREES.items() for one in imports(path, tree)]


def test_a_room_imports_from_its_left_alone():
    place = {name: i for i, names in enumerate(ORDER) for name in names}
    for one in IMPORTS:
        assert one.own in place or not one.own, f"nas.{one.own} has no place in ORDER: give it one, and DESIGN too"
        lazy = not one.own and (one.in_function or one.for_types)  # nas/__init__.py, of what nas.NAME is
        if one.room in ("", one.own) or lazy:
            continue
        allowed = NARROWER.get(one.own, {name for name in place if one.own and place[name] < place[one.own]})
        if one.own not in ("config", "cli"):
            allowed = allowed - {"config"}
        assert one.room in allowed, f"{one.at}: nas.{one.own or '__init__'} imports {one.target}"


def test_hydra_is_imported_in_config_and_cli_alone():
    for one in IMPORTS:
        assert one.top not in ("hydra", "omegaconf") or one.own in ("config", "cli"), f"{one.at}: {one.target}"


def test_what_stands_alone_needs_little_else():
    needs = {"settings": {"settings", "errors"}, "errors": {"errors"}, "jac": {"jac", "torch"}}
    for one in IMPORTS:
        if one.own in needs and one.top not in sys.stdlib_module_names:
            assert (one.room or one.top) in needs[one.own], f"{one.at}: {one.target}"


def test_what_one_system_lacks_is_imported_in_functions():
    for one in IMPORTS:
        assert one.top not in ("fcntl", "resource", "pwd", "msvcrt") or one.in_function, f"{one.at}: {one.target}"


def test_the_command_line_imports_working_rooms_inside_functions():
    light = {"hydra", "omegaconf", "yaml", "nas"} | sys.stdlib_module_names
    for one in IMPORTS:
        if one.own in ("cli", "config") and not (one.in_function or one.for_types):
            assert one.top in light, f"{one.at}: {one.target}"
            assert one.room in PLAIN | {""}, f"{one.at}: {one.target}"


def test_importing_a_verb_does_not_import_torch():
    verbs = [f"nas.cli.{path.stem}" for path in TREES if path.parent.name == "cli" and path.stem != "__init__"]
    assert "nas.cli.train" in verbs
    code = f"import sys, nas.config, {', '.join(verbs)}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    run = [sys.executable, "-c", code]
    loaded = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert "nas" in loaded
    assert not {"torch", "torchvision", "numpy", "sklearn", "tensorboard"} & set(loaded)


def test_nothing_catches_every_exception():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno}"
                caught = {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)}
                assert not {"Exception", "BaseException"} & caught, f"{path}:{node.lineno}"


def test_an_init_hands_names_on_and_does_nothing():
    for path in (path for path in TREES if path.name == "__init__.py"):
        docstring, *rest = TREES[path].body
        assert isinstance(docstring, ast.Expr), path
        for node in rest:
            named = [ast.unparse(t) for t in node.targets] if isinstance(node, ast.Assign) else []
            lazy = path.parent in (PACKAGE, PACKAGE / "data") and ast.unparse(node).startswith(
                ("if TYPE_CHECKING", "def __getattr__")
            )
            hands_on = lazy or isinstance(node, ast.ImportFrom) or named in (["__all__"], ["__version__"])
            assert hands_on, f"{path}:{node.lineno}: {ast.unparse(node)}"
