"""`models ls` in a registry with unchecked bundles."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from atb_fast.cli.main import cli


def test_numbers_that_json_lacks_are_null(tmp_path: Path) -> None:
    home = tmp_path / "BTCUSDT" / "price" / "theirs"
    home.mkdir(parents=True)
    metadata = '{"timeframe": "1d", "evaluation_results": {"test_rmse": Infinity}'
    metadata += ', "price_normalization": {"horizon": NaN}}'
    (home / "metadata.json").write_text(metadata)
    done = CliRunner().invoke(cli, ["models", "ls", "--registry", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert (row["bundle"], row["foreign"]) == ("BTCUSDT:1d:price:theirs", True)
    assert row["test_rmse"] is row["horizon"] is None
