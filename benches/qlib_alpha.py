"""Times the operators of qlib on the 158 features, and compares their values with those of pandas.

qlib needs many packages, so it gets a separate environment:

    python3.11 -m venv qlib
    qlib/bin/pip install pyqlib pandas==2.3.3 polars
    qlib/bin/python benches/qlib_alpha.py CANDLES.parquet --rows 64000
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import alpha
import numpy as np
import pandas as pd
import polars as pl
from qlib.contrib.data.loader import Alpha158DL
from qlib.data import ops
from qlib.data.base import Feature
from qlib.data.cache import H


class Held(Feature):  # type: ignore[misc]  # qlib has no types
    """A column of a frame in memory, where qlib would read a file in its own format."""

    frame: pd.DataFrame

    def _load_internal(self, *_: Any) -> pd.Series:
        return self.frame[self._name]


def expressions() -> dict[str, Any]:
    """Return qlib's own definitions by name, as expressions."""
    scope = {name: getattr(ops, name) for name in dir(ops) if name[0].isupper()}
    texts, names = Alpha158DL.get_feature_config()
    scope["held"] = Held
    return {name: eval(_column(text), scope) for name, text in zip(names, texts, strict=True)}


def _column(text: str) -> str:
    for name in ("open", "high", "low", "close", "volume", "vwap"):
        text = text.replace(f"${name}", f"held({name!r})")
    return text


def compute(found: dict[str, Any], rows: int) -> np.ndarray:
    """Return the float32 matrix of all rows."""
    H.clear()
    matrix = np.empty((rows, len(found)), np.float32)
    for i, expression in enumerate(found.values()):
        matrix[:, i] = expression.load("held", None, None, "day")
    return matrix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("candles", type=Path)
    parser.add_argument("--rows", type=int, default=None, help="Use the first so many rows.")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    candles = pl.read_parquet(arguments.candles)
    candles = candles.head(arguments.rows or len(candles))
    names = candles.columns[1:]
    Held.frame = pd.DataFrame({name: candles[name].to_numpy() for name in names})
    Held.frame["vwap"] = (Held.frame["high"] + Held.frame["low"] + Held.frame["close"]) / 3
    found = expressions()
    seconds = []
    for _ in range(arguments.rounds):
        begin = time.perf_counter()
        matrix = compute(found, len(candles))
        seconds.append(time.perf_counter() - begin)
    ours = alpha.pandas_columns(Held.frame)
    assert list(ours) == list(found)
    worst: dict[str, float] = {}
    for i, (name, column) in enumerate(ours.items()):
        both = np.isfinite(matrix[:, i]) & np.isfinite(column.to_numpy())
        both[: alpha.WARMUP] = False
        difference = np.abs(matrix[both, i] - column.to_numpy()[both])
        scale = np.abs(column.to_numpy()[both]).max()
        family = alpha.FAMILIES[name]
        worst[family] = max(worst.get(family, 0.0), float(difference.max() / scale))
    print(
        json.dumps(
            {
                "qlib": version("pyqlib"),
                "pandas": version("pandas"),
                "rows": len(candles),
                "seconds": seconds,
                "worst": worst,
            }
        )
    )


if __name__ == "__main__":
    main()
