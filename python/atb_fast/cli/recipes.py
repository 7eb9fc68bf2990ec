"""`atb-fast recipes`: list, show and check recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atb_fast.cli import settings
from atb_fast.cli.options import (
    EXIT_CODES,
    TABLES,
    GroupedCommand,
    as_json,
    print_json,
    training_config,
    training_options,
)
from atb_fast.cli.tables import Column, print_table, print_text, terminal_width
from atb_fast.config import (
    MarketOptions,
    NetworkOptions,
    RecipeOptions,
    TargetOptions,
    names,
)
from atb_fast.errors import ArgumentError, counted

if TYPE_CHECKING:
    from atb_fast.recipes.description import Preview

_NULLS = ("input", "undefined")
#: Options that change a recipe, on any market.
_OF_RECIPES = ("timeframe", *names(RecipeOptions, TargetOptions, NetworkOptions))
#: Width of the columns of a table of features besides their names, with a readable expression.
_OTHERS = 47


@click.group()
def recipes() -> None:
    """List, show and check recipes: how candles become features and targets."""


@recipes.command("ls")
@as_json
def list_recipes(as_json: bool) -> None:
    """List the recipes of atb-fast and of installed packages."""
    from atb_fast.recipes import library

    rows: list[dict[str, Any]] = [
        {"name": name, "features": len(made.specs), "target": made.target.kind}
        | {"network": made.network.kind, "description": made.description}
        for name, made in library.builtin().items()
    ]
    rows += [
        {"name": name, "features": None, "target": None, "network": None, "description": where}
        for name, where in library.installed().items()
    ]
    if as_json:
        print_json(rows)
        return
    columns = [Column("name"), Column("features", right=True), Column("target")]
    columns += [Column("network"), Column("description")]
    print_table(columns, [list(row.values()) for row in rows])


@recipes.command()
@click.argument("recipe", metavar="RECIPE")
@click.option("--toml", "as_toml", is_flag=True, help="Print the recipe as a recipe file.")
@as_json
def show(recipe: str, as_toml: bool, as_json: bool) -> None:
    """Show what RECIPE computes: a name, a recipe file, or package.module:Recipe."""
    from atb_fast.recipes import library
    from atb_fast.recipes.description import describe
    from atb_fast.recipes.documents import to_document, to_toml

    made = library.find(recipe)
    if as_toml:
        document = to_document(made)
        if "features" not in document:
            raise ArgumentError(
                f"--toml: {recipe} is a Python class, which cannot be written as a recipe file"
            )
        click.echo(to_toml(document), nl=False)
    elif as_json:
        print_json(describe(made))
    else:
        _print_recipe(describe(made), defaults=True)


@recipes.command()
def schema() -> None:
    """Print the JSON schema of recipe files, for editors that complete and check them."""
    from atb_fast.recipes import documents

    print_json(documents.schema())


@recipes.command(
    cls=GroupedCommand,
    params=[
        click.Argument(["recipe"], metavar="RECIPE"),
        click.Argument(["symbol"], required=False),
        *training_options({*names(MarketOptions), *_OF_RECIPES} - {"recipe"}),
        click.Option(
            ["--plot", "picture"],
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Plot the features of SYMBOL, at most 40, to this PNG file.",
        ),
    ],
    epilog=EXIT_CODES,
)
@as_json
@click.pass_context
def check(
    context: click.Context,
    /,
    recipe: str,
    symbol: str | None,
    picture: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Check RECIPE: a name, a recipe file, or package.module:Recipe.

    With SYMBOL, also compute the features on a market and count the candles without a value, by
    reason: warm-up, missing input, or undefined result. To test for look-ahead bias, run atb-fast
    check leak.
    """
    from atb_fast.recipes.description import describe, preview

    if picture is not None:
        from atb_fast.reports.preview import check_plot_name

        check_plot_name(picture)
    seen = None
    options["recipe"] = recipe
    if symbol is None:  # without a market, most of its options do not matter
        own = {name: options[name] for name in (*_OF_RECIPES, "force_price_only")}
        config = training_config(context, "BTCUSDT", own | {"source": "sample"})
    else:
        config = training_config(context, symbol.upper(), options)
    document = describe(config.definition, config)
    if symbol is not None:
        from atb_fast.ingestion.market import load_market

        seen = preview(load_market(config), config)
        document |= {
            "candles": len(seen.timestamps),
            "complete": seen.rows,
            "nulls": seen.nulls,
        }
        if picture is not None:
            from atb_fast.reports.preview import plot_features

            title = f"{config.symbol} {config.timeframe}, {config.title}"
            plot_features(picture, seen.timestamps, seen.values, title)
    elif picture is not None:
        raise ArgumentError(
            "--plot needs a symbol: atb-fast recipes check RECIPE SYMBOL --plot FILE"
        )
    if as_json:
        print_json(document)
        return
    _print_recipe(document, seen)


def _print_recipe(
    document: dict[str, Any], seen: Preview | None = None, *, defaults: bool = False
) -> None:
    """Print a recipe; `defaults` if options can still change its timeframe and its windows."""
    if "features" not in document:
        print_text(f"{document['name']}: a Python class, {document['python']}")
        return
    title = document["name"]
    title += f": {document['description']}" if document["description"] else ""
    _print_features(document["features"], title)
    target, network = (_part(document[name]) for name in ("target", "network"))
    purge = document["purge"]
    default = " by default" if defaults else ""
    print_text(
        f"target: {target}; network: {network}; window: {document['sequence_length']:,} bars of "
        f"{document['timeframe']}{default}"
        + (f"; lag: {counted(document['lag'], 'bar')}" if document["lag"] else "")
        + f"; split: {document['split']}"
        + (f" ({counted(purge, 'window')} before each part)" if purge else "")
    )
    needs = [*(["the Fear & Greed index"] if document["index"] else []), *document["extra"]]
    print_text(
        f"lookback: {counted(document['lookback'], 'candle')} before a window; inputs: candles"
        f"{''.join(f', {name}' for name in needs)}"
    )
    if seen is not None:
        _print_nulls(seen)
    if document["fit_scalers_on"] == "all":
        print_text(
            "This recipe has look-ahead bias: its scalers are fitted on all rows, including the "
            "test rows."
        )
    if document["split"] == "shared_test":
        print_text(
            "Its test windows also select the best epoch, so its test errors are optimistic."
        )


def _print_features(features: list[dict[str, Any]], title: str) -> None:
    """Print a table of the features; two if one would be too wide for the terminal."""
    shown = {"name": Column("feature", whole=True), "expression": Column("expression")}
    shown |= {"scaler": Column("scaler", whole=True)}
    shown |= {"warmup": Column("warm-up", right=True, whole=True)}
    shown |= {"lookback": Column("lookback", right=True, whole=True)}
    shown |= {"timeframes": Column("timeframes", whole=True)}
    numbers, width = ["scaler", "warmup", "lookback"], _OTHERS
    if longest := max(len(_cell(feature["timeframes"])) for feature in features):
        numbers.append("timeframes")
        width += max(longest, len("timeframes")) + 2
    tables = [["name", "expression", *numbers]]
    if max(len(feature["name"]) for feature in features) + width > terminal_width():
        tables = [["name", "expression"], ["name", *numbers]]
    for i, keys in enumerate(tables):
        rows = [[_cell(feature[key]) for key in keys] for feature in features]
        print_table([shown[key] for key in keys], rows, "" if i else title)


def _print_nulls(seen: Preview) -> None:
    """Print how many candles have every feature, and which features lack values and why."""
    rows: list[list[str | int]] = [
        [name, *(found[each] for each in _NULLS)] for name, found in seen.nulls.items()
    ]
    lacking = [row for row in rows if any(row[1:])]
    if lacking:
        columns = [Column(name, right=True, whole=True) for name in ("missing input", "undefined")]
        title = "candles without a value, in addition to the warm-up:"
        print_table([Column("feature", whole=True), *columns], lacking, title)
    candles = counted(len(seen.timestamps), "candle")
    print_text(f"{seen.rows:,} of {candles} have a value for every feature")


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _part(document: dict[str, Any]) -> str:
    rest = ", ".join(f"{key} {_cell(value)}" for key, value in document.items() if key != "kind")
    return f"{document['kind']} ({rest})" if rest else str(document["kind"])


settings.attach(check, TABLES, table="train.model")
