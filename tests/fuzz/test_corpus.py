"""Every target handles every file of its corpus, which includes past findings."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_targets import CORPUS, TARGETS

FILES = [path for name in TARGETS for path in sorted((CORPUS / name).iterdir())]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_program_takes_it(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", ["metadata", "schema"])
def test_real_documents_are_accepted(name: str) -> None:
    for path in (CORPUS / name).glob("seed_*"):
        TARGETS[name].run(path.read_bytes())
