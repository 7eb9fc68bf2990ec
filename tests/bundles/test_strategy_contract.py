"""Bundles of the strategies satisfy their contract; each rule is broken on purpose."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import engine_contract
import pytest
import strategy_bundles
import strategy_contract
from strategy_breaks import BREAKS, EVERY, Break, metadata
from strategy_contract import KINDS, distribution_violations, violations

#: Rules broken next to the bundle.
BESIDE: dict[str, Break] = {
    "version-name": lambda home: (home / ".hidden").mkdir(),
    "part": lambda home: (home / "with space").mkdir(),
    "no-latest": lambda home: (home / "latest").unlink(),
    "latest-outside": lambda home: relink(home, "../../../elsewhere"),
    "latest-absolute": lambda home: relink(home, str((home / "latest").resolve())),
    "latest-dangles": lambda home: relink(home, "gone"),
}
CASES = [(i, kind) for i, (_, _, kinds) in enumerate(BREAKS) for kind in kinds]


def relink(home: Path, target: str) -> None:
    (home / "latest").unlink()
    (home / "latest").symlink_to(target)


def test_every_rule_has_a_case() -> None:
    rules: set[str] = set()
    for checker in (engine_contract, strategy_contract):
        source = Path(str(checker.__file__)).read_text()
        rules |= set(re.findall(r"""(?:add\(|\{|return )"([a-z-]+)"[)}\n]""", source))
    # Only bundles that predict prices can break it.
    assert rules - {"basic-length", "basic-timeframe"} == {rule for rule, *_ in BREAKS} | {*BESIDE}


@pytest.mark.parametrize("kind", EVERY)
def test_bundles_written_by_hand_satisfy_the_contract(tmp_path: Path, kind: str) -> None:
    strategy_bundles.write(tmp_path, kind)
    assert violations(tmp_path, "BTCUSDT", kind) == set()


@pytest.mark.parametrize(
    ("number", "kind"), CASES, ids=lambda v: BREAKS[v][0] if v in range(999) else v
)
def test_a_broken_rule_is_caught(tmp_path: Path, number: int, kind: str) -> None:
    rule, break_it, _ = BREAKS[number]
    break_it(strategy_bundles.write(tmp_path, kind))
    assert rule in violations(tmp_path, "BTCUSDT", kind)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("rule", BESIDE)
def test_problems_next_to_the_bundle_are_caught(tmp_path: Path, rule: str, kind: str) -> None:
    root = tmp_path / "registry"
    bundle = strategy_bundles.write(root, kind)
    shutil.copytree(bundle, tmp_path / "elsewhere")
    BESIDE[rule](bundle.parent)
    assert rule in violations(root, "BTCUSDT", kind)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("other", EVERY)
def test_no_bundle_passes_for_another_kind(tmp_path: Path, kind: str, other: str) -> None:
    strategy_bundles.write(tmp_path, kind)
    home = tmp_path / "BTCUSDT"
    wanted = KINDS[other].model_type
    if KINDS[kind].model_type != wanted:
        (home / KINDS[kind].model_type).rename(home / wanted)
        metadata(model_type=wanted)(home / wanted / strategy_bundles.VERSION)
    assert bool(violations(tmp_path, "BTCUSDT", other)) == (kind != other)


def test_the_documents_allow_these_distributions() -> None:
    for values, percentiles in (
        ([0.0, 1e-12], [0, 100]),
        ([0.0, 0.1, 0.2], [0, 37, 90]),  # the largest tenth is equal
        ([i / 1000 for i in range(101)], list(range(101))),
        ([0.5, 0.6], [0.0, 100.0]),
    ):
        assert not distribution_violations({"values": values, "percentiles": percentiles})
