"""`models ls` in a registry with unchecked bundles."""

from __future__ import annotations

import json
import re
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


def test_models_of_several_kinds_share_the_columns_of_errors(tmp_path: Path) -> None:
    kinds = {
        "price": {"test_rmse": 1727.15, "persistence_rmse": 1725.88},
        "volatility": {"test_rmse": 0.5, "har_rmse": 0.625, "persistence_rmse": 0.75},
        "classes": {"test_log_loss": 0.75, "class_shares_log_loss": 0.875},
    }
    for name, figures in kinds.items():
        home = tmp_path / "BTCUSDT" / name / "theirs"
        home.mkdir(parents=True)
        params = {"epochs": 7, "engine": "exact" if name == "price" else "keras"}
        metadata = {"timeframe": "1d", "evaluation_results": figures, "training_params": params}
        (home / "metadata.json").write_text(json.dumps(metadata))
    listed = CliRunner().invoke(cli, ["models", "ls", "--registry", str(tmp_path)]).stdout
    rows = {line.split()[0].split(":")[2]: line for line in listed.splitlines()[3:]}
    assert re.search(r" 1,727.15 +RMSE +1,725.88 +persistence ", rows["price"])
    assert re.search(r" 7 .* 0.50000 +RMSE +0.62500 +HAR ", rows["volatility"])
    assert re.search(r" 7 .* 0.75000 +log loss +0.87500 +class shares ", rows["classes"])
    # A model that was solved exactly has no epochs.
    assert " 7 " not in rows["price"]
