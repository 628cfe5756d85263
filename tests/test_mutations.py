"""The lines that ``scripts/mutate.py`` breaks are there, and so are the tests that should notice."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_mutation_finds_its_line_and_tests():
    mutations = json.loads((ROOT / "scripts" / "mutations.json").read_text())
    assert len(mutations) >= 30
    for mutation in mutations:
        text = (ROOT / mutation["file"]).read_text()
        assert text.count(mutation["old"]) == 1, mutation
        assert text.replace(mutation["old"], mutation["new"]) != text, mutation
        for tests in mutation["tests"].split():
            assert (ROOT / tests).exists(), mutation
