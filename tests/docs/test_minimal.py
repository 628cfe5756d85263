"""scripts/minimal.py: short, made of torch and nas.nn alone, and it learns."""

import importlib.util
import re
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "minimal.py"


def test_minimal_takes_torch_and_nas_nn_alone():
    text = SCRIPT.read_text()
    assert len(text.splitlines()) <= 80
    modules = re.findall(r"^(?:from|import) ([\w.]+)", text, re.MULTILINE)
    ours = [name for name in modules if name.partition(".")[0] in ("nas", "conf")]
    assert ours == ["nas.nn"]


def test_minimal_learns_digits():
    spec = importlib.util.spec_from_file_location("minimal", SCRIPT)
    minimal = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(minimal)
    accuracies = minimal.main(steps=60)
    assert len(accuracies) == 3
    assert max(accuracies) > 0.8, accuracies  # a tenth by chance
