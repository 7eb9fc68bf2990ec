"""A backtest of volatility targeting: positions sized by out-of-sample forecasts, after costs.

A position is the target volatility divided by the forecast volatility. The script compares these
positions with buy and hold and with positions sized by HAR. Then it tries many variants, and
deflates the Sharpe ratio of the best one by their number. docs/backtest.md explains each choice.

    python examples/backtest.py                                        # synthetic sample market
    python examples/backtest.py --candles BTCUSDT_1h.parquet --timeframe 1h
"""

import argparse
import logging
import sys
from datetime import timedelta
from itertools import product

import polars as pl

from atb_fast import AtbFastError, TrainingConfig, deflated_sharpe, load_market, walk_forward

YEAR = timedelta(days=365.25)
TARGET = 0.4  # annual volatility
CAP = 1.0  # the largest position, in units of the equity; above 1, the rest is borrowed
COST = 0.001  # per unit of turnover: fee, spread and slippage
#: Options of the model, targets, and steps that positions are rounded to, which lowers turnover.
#: Each combination is a variant.
MODELS = [{}, {"network_bars": 5}, {"network_l2": 100.0}]
TARGETS, STEPS = [0.2, 0.4, 0.6], [0.0, 0.1, 0.25]


def positions(forecasts: pl.DataFrame, column: str, target: float, step: float = 0) -> pl.DataFrame:
    """Return the position decided at each `made_at`, in units of the equity.

    `column` has the volatility from `made_at` to `target_time`; `target` is annual.
    """
    periods = pl.lit(YEAR) / (pl.col("target_time") - pl.col("made_at"))  # per year
    position = (target / (pl.col(column) * periods.sqrt())).clip(upper_bound=CAP)
    rounded = (position / step).round() * step if step else position
    return forecasts.select("made_at", position=rounded)


def backtest(candles: pl.DataFrame, decided: pl.DataFrame, cost: float = COST) -> pl.DataFrame:
    """Return position, turnover and returns of each bar.

    The position decided when a bar opens is held until the next open, or longer if there is no
    decision at that time. `turnover` is the size of the trade at the open, which also undoes the
    drift of the position since the last trade. `net` is the return of the equity after costs.
    """
    position, market = pl.col("position"), pl.col("market")
    next_open = pl.col("open").shift(-1).fill_null(pl.col("close"))
    drifted = position * (1 + market) / (1 + position * market)  # at the end of the bar
    return (
        candles.filter(pl.col("timestamp") >= decided["made_at"].min())
        .join(decided, left_on="timestamp", right_on="made_at", how="left", maintain_order="left")
        .with_columns(position.forward_fill(), market=next_open / pl.col("open") - 1)
        .with_columns(turnover=(position - drifted.shift(1, fill_value=0)).abs())
        .with_columns(net=(1 - cost * pl.col("turnover")) * (1 + position * market) - 1)
        .select("timestamp", "position", "market", "turnover", "net")
    )


def figures(bars: pl.DataFrame) -> dict[str, float]:
    """Return the figures of a backtest; all but drawdown and position are annual."""
    net, periods = bars["net"], YEAR / bars["timestamp"].diff().median()
    equity = (1 + net).cum_prod()
    return {
        "return": equity[-1] ** (periods / len(bars)) - 1,
        "volatility": net.std() * periods**0.5,
        "sharpe": sharpe(net) * periods**0.5,
        "drawdown": (equity / equity.cum_max().clip(lower_bound=1) - 1).min(),
        "turnover": bars["turnover"].mean() * periods,
        "position": bars["position"].mean(),
    }


def sharpe(returns: pl.Series) -> float:
    """Return the Sharpe ratio per bar; cash earns nothing."""
    return returns.mean() / returns.std()


def hedged(bars: pl.DataFrame) -> pl.Series:
    """Return the returns minus those of a constant position: what changing the position added."""
    beta = bars.select(pl.cov("net", "market") / pl.col("market").var()).item()
    return bars["net"] - beta * bars["market"]


def main() -> None:
    """Print the comparison, and the deflated Sharpe ratio of the best variant."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--candles", metavar="FILE", help="default: the synthetic sample market")
    parser.add_argument("--symbol", default="BTCUSDT")
    parser.add_argument("--timeframe", default="1d", choices=["1d", "1h"])
    given = parser.parse_args()
    source = "files" if given.candles else "sample"
    options = {**vars(given), "recipe": "volatility", "source": source}
    configs = [TrainingConfig(**options, **model) for model in MODELS]
    candles = load_market(configs[0]).candles
    forecasts = [walk_forward(config).predictions for config in configs]

    hold = forecasts[0].select("made_at", position=1.0)
    market = backtest(candles, hold)
    model = backtest(candles, positions(forecasts[0], "prediction", TARGET))
    same = hold.with_columns(position=model["net"].std() / market["net"].std())
    har = backtest(candles, positions(forecasts[0], "baseline", TARGET))
    print(f"{given.symbol} {given.timeframe}, {given.candles or 'synthetic sample market'}:")
    first, last = model["timestamp"][0], model["timestamp"][-1]
    print(f"{len(model):,} bars out of sample, {first:%Y-%m-%d} to {last:%Y-%m-%d}")
    print(f"target volatility {TARGET:.0%}, largest position {CAP:g}, costs {COST:.2%} of turnover")
    print(f"\n{'':18}  return  volatility  Sharpe  drawdown  turnover  position")
    names = ["buy and hold", "same volatility", "sized by HAR", "sized by the model"]
    row = "{return:8.1%}{volatility:12.1%}{sharpe:8.2f}{drawdown:10.1%}{turnover:9.1f}x"
    for name, bars in zip(names, [market, backtest(candles, same), har, model], strict=True):
        print(f"{name:18}{row}{{position:10.2f}}".format(**figures(bars)))

    variants = list(product(range(len(MODELS)), TARGETS, STEPS))
    tried = [backtest(candles, positions(forecasts[n], "prediction", *of)) for n, *of in variants]
    best = max(range(len(tried)), key=lambda number: sharpe(tried[number]["net"]))
    n, target, step = variants[best]
    print(
        f"\nBest of {len(tried)} variants: {MODELS[n] or 'default model'}, {target=:g}, {step=:g}"
    )
    for name, of in {"after costs": lambda bars: bars["net"], "hedged": hedged}.items():
        returns = [of(bars) for bars in tried]
        yearly = figures(tried[best].with_columns(net=returns[best]))["sharpe"]
        luck = deflated_sharpe(returns[best], [sharpe(each) for each in returns])
        print(f"  Sharpe ratio {name:12}{yearly:6.2f}    deflated {luck:4.0%}")
    print("Deflated: the probability that this is more than the luck of trying all variants.")


if __name__ == "__main__":
    logging.getLogger("atb_fast").setLevel(logging.ERROR)  # not a line for each fold
    try:
        main()
    except AtbFastError as error:
        sys.exit(f"error: {error}")
