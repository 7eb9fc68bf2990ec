"""Tables on a terminal and in a pipe."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from atb_fast.cli.main import cli
from atb_fast.cli.tables import Column, print_table
from atb_fast.recipes import library

COLUMNS = [Column("name"), Column("price", right=True), Column("note", optional=True)]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns, as rich sees it."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")


def test_cells_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [("a", "1,234.50", None), ("longer", 1_000_000, True)], "a title")
    assert capsys.readouterr().out.splitlines() == [
        "a title",
        "name        price  note",
        "───────────────────────",
        "a        1,234.50",
        "longer  1,000,000  yes",
    ]


@pytest.mark.usefixtures("terminal")
def test_a_long_title_is_wrapped_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [("a", "1", None)], " ".join(["words"] * 20))
    title = capsys.readouterr().out.splitlines()[:2]
    assert [set(line.split()) for line in title] == [{"words"}, {"words"}]
    assert max(map(len, title)) <= 80


def test_an_optional_column_without_values_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [("a", None, None), ("b", None, "")])
    header = capsys.readouterr().out.splitlines()[0]
    assert header.split() == ["name", "price"]


def test_brackets_are_text_and_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [("[red]a[/red]", "[/]", ":smile:")], "[bold]title")
    out = capsys.readouterr().out
    for text in ("[red]a[/red]", "[/]", ":smile:", "[bold]title"):
        assert text in out


def test_programs_get_whole_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = "/".join(["folder"] * 60)
    print_table(COLUMNS, [(path, "1.25", "x y " * 50)])
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"{path}   1.25  {('x y ' * 50).strip()}"


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("columns", [3, 9])
def test_terminals_get_every_digit(capsys: pytest.CaptureFixture[str], columns: int) -> None:
    names = [Column(f"number {i}", right=True) for i in range(columns)]
    figures = [f"{i}2,345,678.9" for i in range(1, columns + 1)]
    print_table([Column("name"), *names], [("folder/" * 30, *figures)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    # Digits that do not fit continue in the same column of the next line.
    printed = "".join(lines)
    assert sum(map(str.isdigit, printed)) == sum(
        sum(map(str.isdigit, text)) for text in (*figures, *(name.name for name in names))
    )
    assert "".join(printed.split()).count("/") == 30


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("width", [20, 40])
def test_whole_cells_are_not_broken_if_they_fit(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = [Column("a name", whole=True), Column("text"), Column("warm-up", whole=True)]
    print_table(columns, [("sentiment_primary", "word " * 20, "1,234")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    unbroken = {"a name", "warm-up", "sentiment_primary", "1,234"}
    assert (unbroken <= set(re.split("  +", "  ".join(lines)))) == (width == 40)
    assert "".join("".join(lines).split()).count("1") == 1  # nothing is cropped


@pytest.mark.usefixtures("terminal")
def test_a_recipe_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    command = ["recipes", "check", "causal", "BTCUSDT", "--source", "sample"]
    for arguments in (["recipes", "show", "causal"], [*command, "--start-date", "2021-06-01"]):
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
        lines = done.output.splitlines()
        assert max(map(len, lines[1:])) <= 60  # the first one is the description
        table = "  ".join(lines)
        recipe = library.get("causal")
        words = {*recipe.specs, *(spec.scaler for spec in recipe.specs.values())}
        assert {*words, "feature", "scaler", "warm-up", "lookback"} <= set(re.split(" +", table))


def test_a_check_with_a_symbol_shows_its_options() -> None:
    command = ["recipes", "check", "causal", "BTCUSDT", "--source", "sample"]
    command += ["--sequence-length", "1000", "--horizon", "3"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert "target: log_return (horizon 3)" in done.output
    assert "window: 1,000 bars of 1d; split: purged (1,002 windows before each part)" in done.output


@pytest.mark.usefixtures("terminal")
def test_findings_of_verify_fit_a_terminal(tmp_path: Path, daily: pl.DataFrame) -> None:
    daily.write_parquet(tmp_path / "BTCUSDT_1d_2019-01-01_2024-12-01.parquet")
    done = CliRunner().invoke(cli, ["data", "verify", str(next(tmp_path.glob("*.parquet")))])
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= 80
    assert f"{len(daily):,}" in done.output
    assert "24 h" in done.output
