from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from atb_fast.cli.main import cli
from atb_fast.cli.settings import load
from atb_fast.config import OPTIONS, TargetOptions, default_cache_dir, names, variables
from atb_fast.errors import ArgumentError, AtbFastError
from atb_fast.ingestion.exchange.http import Endpoints

TABLES = {"train": list(OPTIONS), "train.model": list(OPTIONS), "train.price": ["epochs"]}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (*OPTIONS, "jobs", "mlflow", "config"):
        for variable in variables(name):
            monkeypatch.delenv(variable, raising=False)
    return tmp_path


def run(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(cli, arguments, env=environment, catch_exceptions=True)


def shown(*arguments: str, **environment: str) -> dict[str, tuple[Any, str]]:
    done = run("config", "show", *arguments, "--json", **environment)
    assert done.exit_code == 0, done.output
    return {row["option"]: (row["value"], row["from"]) for row in json.loads(done.stdout)}


def test_defaults() -> None:
    options = shown()
    assert {where for _, where in options.values()} == {"default"}
    assert options.pop("cache_dir")[0] == str(default_cache_dir())
    # Repeated here, because a changed default changes the models of all users who rely on it.
    assert {name: value for name, (value, _) in options.items()} == {
        "timeframe": "1d",
        "start_date": None,
        "end_date": None,
        "source": None,
        "candles": None,
        "sentiment": None,
        "extra": None,
        "extra_lag": None,
        "allow_bad_candles": False,
        "force_price_only": False,
        "freshness_days": 7,
        "offline": False,
        "force_refresh": False,
        "recipe": "legacy",
        "sequence_length": 120,
        "horizon": 1,
        "embargo": None,
        "sentiment_lag_days": 1,
        "force_sentiment": False,
        "target": "close",
        "target_take_profit": None,
        "target_stop_loss": None,
        "target_class_weights": None,
        "target_cost": None,
        "target_quantiles": None,
        "network": "cnn_lstm",
        "network_bars": None,
        "network_l2": None,
        "network_kernel": None,
        "network_units": 100,
        "network_layers": None,
        "network_filters": 64,
        "network_blocks": None,
        "network_dropout": 0.2,
        "epochs": 300,
        "batch_size": None,
        "patience": 15,
        "seed": 42,
        "engine": "auto",
        "mixed_precision": True,
        "tensorboard": None,
        "compile_cache": True,
        "resume": False,
        "onnx_input": "features",
        "skip_plots": False,
        "skip_robustness": False,
        "skip_onnx": False,
        "promote": None,
        "registry": "src/ml/models",
        "jobs": None,
        "mlflow": None,
    }
    assert shown("price")["timeframe"] == ("1h", "default")


def options_of(*path: str) -> set[str]:
    """Return the options of a training run that a command offers, from its help."""
    done = run(*path, "--help")
    assert done.exit_code == 0, done.output
    flags = set(re.findall(r"^  --([a-z0-9-]+)", done.output, re.MULTILINE))
    return {flag.replace("-", "_") for flag in flags} & OPTIONS.keys()


def test_each_command_offers_the_options_that_apply_to_it() -> None:
    output = {"registry", "onnx_input", "skip_plots", "skip_robustness", "skip_onnx"}
    output |= {"promote"}
    of_fitting = {"epochs", "batch_size", "patience", "seed", "engine", "mixed_precision"}
    of_fitting |= {"compile_cache"}
    of_one_run = {"tensorboard", "resume"}
    assert options_of("train", "model") == OPTIONS.keys()
    assert OPTIONS.keys() - options_of("train", "price") == {
        *("sentiment", "force_sentiment", "force_price_only", "freshness_days", "skip_robustness"),
        *("onnx_input", "sequence_length", "recipe", "horizon", "embargo", "sentiment_lag_days"),
        *("extra", "extra_lag", *names(TargetOptions)),
    }
    assert OPTIONS.keys() - options_of("evaluate") == (output | of_one_run) - {"registry"}
    assert OPTIONS.keys() - options_of("sweep") == (output | of_one_run) - {"registry"}
    assert OPTIONS.keys() - options_of("check", "leak") == output | of_one_run | of_fitting
    assert options_of("train") == {
        *("registry", "cache_dir", "candles", "sentiment", "extra", "recipe", "offline", "resume"),
        *("force_refresh", "tensorboard", "promote", "compile_cache"),
    }


def test_help_is_grouped_and_names_the_recipes_that_a_command_takes() -> None:
    model, price = (run("train", name, "--help").output for name in ("model", "price"))
    headings = ["Data:", "Recipe:", "Target:", "Network:", "Training:", "Output:", "Options:"]
    assert re.findall("^[A-Z][a-z]+:$", model, re.MULTILINE) == headings
    assert re.findall("^[A-Z][a-z]+:$", price, re.MULTILINE) == [
        heading for heading in headings if heading not in ("Recipe:", "Target:")
    ]
    assert "a recipe file (FILE.toml)" in " ".join(model.split())
    assert "basic:" not in model
    assert "basic:" not in run("train", "--help").output
    assert "basic:" in run("evaluate", "--help").output


def test_options_come_after_the_command_that_takes_them() -> None:
    early = run("train", "--offline", "--json", "model", "BTCUSDT")
    assert early.exit_code == 2
    assert "--offline, --json must come after model: atb-fast train model SYMBOL --offline" in (
        early.output
    )
    both = run("train", "--from", "x", "price", "BTCUSDT")
    assert both.exit_code == 2
    assert "repeats a recorded run as it was; leave out price and the symbol" in both.output


def test_the_number_of_jobs_can_be_set_anywhere() -> None:
    Path("atb-fast.toml").write_text("[train]\njobs = 3\n[train.price]\njobs = 2\n")
    assert shown("model")["jobs"] == (3, "atb-fast.toml")
    assert shown("price")["jobs"] == (2, "atb-fast.toml")
    assert shown("price", ATB_FAST_JOBS="5")["jobs"] == (5, "ATB_FAST_JOBS")
    # One symbol, and commands that train nothing, ignore it.
    for arguments in (["evaluate", "btc/usdt"], ["train", "model", "btc/usdt"], ["data", "ls"]):
        assert "jobs" not in run(*arguments).output
    for value, message in (("0", "at least 1"), ("'2'", "an integer"), ("true", "an integer")):
        Path("atb-fast.toml").write_text(f"[train]\njobs = {value}\n")
        error = run("train", "model", "BTCUSDT", "ETHUSDT").exception
        assert isinstance(error, ArgumentError)
        assert f"expected {message}" in str(error)
        assert "key jobs in [train]: --jobs is " in str(error)


def test_every_kind_of_error_has_its_own_exit_code() -> None:
    kinds: list[type[AtbFastError]] = [AtbFastError, *AtbFastError.__subclasses__()]
    assert sorted(kind.exit_code for kind in kinds) == list(range(1, 11))
    epilog = " ".join(run("--help").output.split())
    assert all(f"{kind.exit_code} {kind.meaning}" in epilog for kind in kinds)
    assert "130 interrupted, 141 the program that reads the output has exited." in epilog


def test_environment_overrides_the_file() -> None:
    Path("atb-fast.toml").write_text(
        '[train]\nepochs = 50\nbatch-size = 8\nstart_date = 2023-01-31\nend_date = "2024-01-01"\n'
        "mixed_precision = false\nskip_plots = true\ntimeframe = '4h'\nsequence_length = 60\n"
    )
    options = shown(ATB_FAST_EPOCHS="60", ATB_FAST_SKIP_PLOTS="0", ATB_FAST_SEED="")
    file = "atb-fast.toml"
    assert {name: got for name, got in options.items() if got[1] != "default"} == {
        "epochs": (60, "ATB_FAST_EPOCHS"),
        "batch_size": (8, file),
        "start_date": ("2023-01-31", file),
        "end_date": ("2024-01-01", file),
        "mixed_precision": (False, file),
        "skip_plots": (False, "ATB_FAST_SKIP_PLOTS"),
        "timeframe": ("4h", file),
        "sequence_length": (60, file),
    }


def test_targets_and_networks_come_from_every_layer() -> None:
    Path("atb-fast.toml").write_text(
        "[train]\nrecipe = 'causal'\nnetwork = 'mlp'\nnetwork_units = 16\nnetwork-dropout = 0\n"
        "target = 'triple_barrier'\ntarget_take_profit = 0.03\ntarget_class_weights = 'balanced'\n"
    )
    file = "atb-fast.toml"
    options = shown(ATB_FAST_NETWORK_LAYERS="3", ATB_FAST_TARGET_STOP_LOSS="0.02")
    assert {name: got for name, got in options.items() if got[1] != "default"} == {
        "recipe": ("causal", file),
        "target": ("triple_barrier", file),
        "target_take_profit": (0.03, file),
        "target_stop_loss": (0.02, "ATB_FAST_TARGET_STOP_LOSS"),
        "target_class_weights": ("balanced", file),
        "network": ("mlp", file),
        "network_units": (16, file),
        "network_layers": (3, "ATB_FAST_NETWORK_LAYERS"),
        "network_dropout": (0.0, file),
    }
    # The defaults are those of the target.
    assert options["horizon"] == (336, "default")
    # The model that live strategies load has a network of its own.
    assert shown("price")["network"] == ("lstm", "default")
    Path(file).write_text("[train.price]\nnetwork = 'linear'\nnetwork_bars = 5\n")
    assert shown("price")["network_bars"] == (5, file)
    Path(file).write_text("[train]\nrecipe = 'volatility'\ntarget_quantiles = [0.1, 0.5]\n")
    assert shown()["target_quantiles"] == ("0.1,0.5", file)
    assert shown(ATB_FAST_TARGET_QUANTILES="0.3")["target_quantiles"] == (
        *("0.3", "ATB_FAST_TARGET_QUANTILES"),
    )


def test_a_flag_that_the_network_does_not_have() -> None:
    Path("atb-fast.toml").write_text("[train]\nnetwork_filters = 32\n")
    error = run("train", "model", "BTCUSDT", "--source", "sample", "--network", "lstm").exception
    assert isinstance(error, ArgumentError)
    assert str(error) == (
        "--network-filters does not apply to the network lstm, which has --network-units; remove "
        "it, or pass --network tcn or cnn_lstm (--network-filters is from atb-fast.toml)"
    )
    for flag, value, message in (
        ("--network", "gru", "Invalid value for '--network': 'gru' is not one of 'linear'"),
        ("--network-units", "2.5", "'2.5' is not a valid integer"),
        ("--network-dropout", "half", "'half' is not a valid float"),
        ("--target-class-weights", "even", "'even' is not one of 'none', 'balanced'"),
    ):
        done = run("train", "model", "BTCUSDT", flag, value)
        assert done.exit_code == 2
        assert message in " ".join(done.output.split())


def test_recipes_check_applies_the_options() -> None:
    arguments = ["--network", "lstm", "--target", "smoothed_return", "--horizon", "3", "--json"]
    document = json.loads(run("recipes", "check", "causal", *arguments).stdout)
    assert document["network"]["kind"] == "lstm"
    assert document["target"] == {"kind": "smoothed_return", "horizon": 3}
    own = json.loads(run("recipes", "show", "causal", "--json").stdout)
    assert own["target"] == {"kind": "log_return", "horizon": 1}


def test_flags_override_everything() -> None:
    Path("atb-fast.toml").write_text("[train]\noffline = true\nmixed_precision = false\n")
    command = cli.commands["train"]
    assert isinstance(command, click.Group)
    arguments = ["BTCUSDT", "--no-offline", "--mixed-precision", "--epochs", "70"]
    with click.Context(cli) as parent:
        context = command.commands["model"].make_context("model", arguments, parent)
    assert context.params["offline"] is False
    assert context.params["mixed_precision"] is True
    assert context.params["epochs"] == 70


def test_known_variables_keep_their_meaning() -> None:
    Path("atb-fast.toml").write_text('[train]\nregistry = "a"\ncache_dir = "b"\n')
    options = shown(MODEL_REGISTRY_PATH="/m", ATB_FAST_CACHE="/c")
    assert options["registry"] == ("/m", "MODEL_REGISTRY_PATH")
    assert options["cache_dir"] == ("/c", "ATB_FAST_CACHE")


@pytest.mark.parametrize(
    ("variable", "command"), [("MODEL_REGISTRY_PATH", "models"), ("ATB_FAST_CACHE", "data")]
)
def test_every_command_expands_a_home_directory(home: Path, variable: str, command: str) -> None:
    (home / "x" / "candles").mkdir(parents=True)
    done = run(command, "ls", HOME=str(home), **{variable: "~/x"})
    assert done.exit_code == 0, done.output
    assert f"{home / 'x'}" in done.stdout
    for arguments in ((command, "ls"), ("doctor",)):
        error = run(*arguments, **{variable: "~nobody0/x"}).exception
        assert isinstance(error, ArgumentError)
        assert "is '~nobody0/x', expected a path" in str(error)


def test_options_and_other_variables_have_different_names() -> None:
    ours = {name for option in (*OPTIONS, "config", "jobs", "mlflow") for name in variables(option)}
    others = {f"ATB_FAST_{name.upper()}_URL" for name in Endpoints.__dataclass_fields__}
    others |= {f"ATB_FAST_{name}" for name in ("SHARED", "COMPLETE", "THREADS")}
    assert not ours & others


def test_unknown_variables_cause_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    for name in Endpoints.__dataclass_fields__:
        shown(**{f"ATB_FAST_{name.upper()}_URL": "http://localhost"})
    shown(ATB_FAST_EPOCHS="5", ATB_FAST_JOBS="2", ATB_FAST_FOLDS="3", ATB_FAST_SHARED="x")
    shown(ATB_FAST_THREADS="2")
    shown(ATB_FAST_EPOCH="")
    assert not caplog.messages
    shown(ATB_FAST_EPOCH="5", ATB_FAST_LEARNING_RATE="1e-3")
    assert caplog.messages == [
        "ignoring the unknown variable ATB_FAST_EPOCH; did you mean ATB_FAST_EPOCHS?",
        "ignoring the unknown variable ATB_FAST_LEARNING_RATE",
    ]


def test_a_repeated_run_and_data_stay_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("atb-fast.toml").write_text("[train]\noffline = true\n")
    command = cli.commands["train"]
    with click.Context(cli) as parent:
        assert command.make_context("train", ["--from", "x"], parent).params["offline"] is True
        again = command.make_context("train", ["--from", "x", "--no-offline"], parent)
        assert again.params["offline"] is False
        data = cli.commands["data"]
        assert isinstance(data, click.Group)
        # The file is about training, so its `offline` does not stop `data fetch`.
        for given, wanted in (("", False), ("1", True)):
            monkeypatch.setenv("ATB_FAST_OFFLINE", given)
            fetch = data.commands["fetch"].make_context("fetch", ["BTCUSDT"], parent)
            assert fetch.params["offline"] is wanted


def test_train_price_reads_some_options_only_from_its_own_table(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "atb_fast")
    Path("atb-fast.toml").write_text(
        "[train]\nepochs = 50\ntimeframe = '1d'\nsequence_length = 60\nforce_sentiment = true\n"
        "[train.price]\nepochs = 9\n[train.model]\nepochs = 10\n"
    )
    price = shown("price")
    assert price["timeframe"] == ("1h", "default")
    assert price["epochs"] == (9, "atb-fast.toml")
    assert "sequence_length" not in price
    (notice,) = caplog.messages
    assert notice == (
        "atb-fast.toml: train price ignores timeframe, sequence_length, force_sentiment in "
        "[train]; its own table is [train.price]"
    )
    assert shown("model")["epochs"] == (10, "atb-fast.toml")
    Path("atb-fast.toml").write_text("[train.price]\ntimeframe = '4h'\n")
    assert shown("price")["timeframe"] == ("4h", "atb-fast.toml")
    caplog.clear()
    shown("price", ATB_FAST_SEQUENCE_LENGTH="60")
    assert caplog.messages == ["train price ignores ATB_FAST_SEQUENCE_LENGTH"]


def test_other_commands_read_the_directories(home: Path) -> None:
    (home / "bot").mkdir()
    (home / "bot" / "my.toml").write_text(
        '[train]\nregistry = "models"\ncache_dir = "store"\noffline = true\n'
    )
    (home / "bot" / "models").mkdir()
    assert "bot/models" in run("models", "ls", "--config", "bot/my.toml").output
    assert "bot/store: nothing" in run("data", "ls", ATB_FAST_CONFIG="bot/my.toml").output
    assert "c: nothing" in run("data", "ls", "--config", "bot/my.toml", ATB_FAST_CACHE="c").output
    assert shown(ATB_FAST_CONFIG="bot/my.toml")["registry"] == ("bot/models", "bot/my.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train", "f.toml is not valid TOML: "),
        ("[train]\nepoch = 5", "f.toml: key epoch in [train] is unknown; did you mean epochs?"),
        ("[train]\nsymbol = 'X'", "f.toml: key symbol in [train] is unknown; see atb-fast train"),
        ("epochs = 5", "f.toml: key epochs is not in a table; move it below [train]"),
        ("[trian]\nepochs = 5", "f.toml: [trian] is unknown; did you mean train?"),
        ("train = 4", "f.toml: train is 4, expected a table, [train]"),
        ("[train]\nmodel = 4", "key model in [train] is 4, expected a table, [train.model]"),
        ("[train.prise]", "key prise in [train] is unknown; did you mean price?"),
        ("[train.price]\nseed = 4", "key seed in [train.price] is unknown"),
        ("[train]\nepochs = 2.5", "key epochs in [train]: --epochs is 2.5, expected an integer"),
        ("[train]\nepochs = '5'", "epochs is '5', expected an integer"),
        ("[train]\nepochs = true", "epochs is True, expected an integer"),
        ("[train]\nepochs = 0", "epochs is 0, expected at least 1"),
        ("[train]\nskip_plots = 1", "--skip-plots is 1, expected True or False"),
        ("[train]\nstart_date = '1.1.2020'", "--start-date is '1.1.2020', expected a date"),
        ("[train]\nstart_date = 2020-01-01T12:00:00Z", "expected a date such as 2024-01-31"),
        ("[train]\ntimeframe = '2d'", "timeframe is '2d', expected one of"),
        ("[train]\nnetwork = 'gru'", "--network is 'gru', expected one of linear"),
        ("[train]\nnetwork_dropout = '0.1'", "--network-dropout is '0.1', expected a number"),
        ("[train]\nnetwork_dropout = nan", "--network-dropout is nan, expected a number"),
        ("[train]\ntarget_quantiles = 0.5", "--target-quantiles is 0.5, expected numbers such as"),
        ("[train]\ntarget_quantiles = ['0.5']", "--target-quantiles is ['0.5'], expected numbers"),
        ("[train]\ncandles = ['x']", "candles is ['x'], expected a path"),
        ("[train]\nregistry = ''", "key registry in [train]: --registry is empty; pass a path"),
        ("[train]\ncache_dir = ''", "--cache-dir is empty; pass a path"),
        ("[train]\nbatch-size = 4\nbatch_size = 5", "key batch_size in [train] is given twice"),
    ],
)
def test_bad_files(text: str, message: str) -> None:
    path = Path("f.toml")
    path.write_text(text)
    with pytest.raises(ArgumentError, match=re.escape(message)):
        load(path, TABLES)


@pytest.mark.parametrize("text", ["{} = 1", "[{}]", "[train]\n{} = 1", "[train]\nseed = '{}'"])
def test_a_message_does_not_quote_a_whole_file(text: str) -> None:
    Path("f.toml").write_text(text.format("k" * 100_000))
    with pytest.raises(ArgumentError) as caught:
        load(Path("f.toml"), TABLES)
    assert len(str(caught.value)) < 300


def test_files_that_cannot_be_read(home: Path) -> None:
    with pytest.raises(ArgumentError, match=r"gone\.toml cannot be read: No such file"):
        load(Path("gone.toml"), TABLES)
    Path("bytes.toml").write_bytes(b"[train]\n\xff = 3")
    with pytest.raises(ArgumentError, match=r"bytes\.toml is not valid TOML: 'utf-8'"):
        load(Path("bytes.toml"), TABLES)


def test_paths_are_relative_to_the_file() -> None:
    Path("bot").mkdir()
    file = Path("bot/f.toml")
    file.write_text('[train]\ncandles = "a.csv"\nsentiment = "~/b.csv"\nregistry = "/c"\n')
    assert load(file, TABLES)["train"] == {
        "candles": "bot/a.csv",
        "sentiment": str(Path.home() / "b.csv"),
        "registry": "/c",
    }


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--force-refresh"], {}, "contradict each other; pass only one (--offline is from a"),
        (["--force-refresh", "--no-offline", "--seed", str(2**32)], {}, "at most 4294967295"),
        (
            ["--no-offline", "--end-date", "2022-01-01"],
            {},
            "swap them (--start-date is from atb-fast.toml)",
        ),
        (
            [],
            {"ATB_FAST_FORCE_REFRESH": "yes"},
            "(--offline is from atb-fast.toml, --force-refresh is from ATB_FAST_FORCE_REFRESH)",
        ),
    ],
)
def test_contradictions_name_the_source_of_each_side(
    arguments: list[str], environment: dict[str, str], message: str
) -> None:
    Path("atb-fast.toml").write_text("[train]\noffline = true\nstart_date = 2023-01-01\n")
    done = run("train", "model", "BTCUSDT", *arguments, **environment)
    assert isinstance(done.exception, ArgumentError)
    assert message in str(done.exception)


def test_options_by_name_are_repeated_listed_or_in_a_table(home: Path) -> None:
    expected = {
        "extra": f"funding={home / 'f.csv'}, eth={home / '{symbol}.csv'}",
        "extra_lag": "funding=8h",
    }
    tables = (
        "[train.extra]\nfunding = 'f.csv'\neth = '{symbol}.csv'\n[train.extra_lag]\nfunding = '8h'",
        "[train]\nextra = ['funding=f.csv', 'eth={symbol}.csv']\nextra-lag = {funding = '8h'}\n",
        "[train.model.extra]\nfunding = 'f.csv'\neth = '{symbol}.csv'\n"
        "[train.model.extra_lag]\nfunding = '8h'\n",
    )
    for text in tables:
        (home / "atb-fast.toml").write_text(text)
        options = shown("--config", str(home / "atb-fast.toml"))
        assert {name: options[name][0] for name in expected} == expected
    variables = {"ATB_FAST_EXTRA": "a=a b.csv,b=b.csv", "ATB_FAST_EXTRA_LAG": "a=1d"}
    options = shown(**variables)
    assert options["extra"] == ("a=a b.csv, b=b.csv", "ATB_FAST_EXTRA")
    assert options["extra_lag"] == ("a=1d", "ATB_FAST_EXTRA_LAG")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("extra = 3", "--extra is 3, expected a mapping, or a list of NAME=FILE"),
        ("extra = 'a=b'", "--extra is 'a=b', expected a mapping, or a list of NAME=FILE"),
        ("extra = ['a']", "--extra is 'a', expected NAME=FILE"),
        ("extra = {a = 3}", "--extra is {'a': 3}, expected NAME=FILE, both as strings"),
        ("extra = ['a=b', 'a=c']", "--extra a is given twice; remove one"),
    ],
)
def test_bad_options_by_name(home: Path, value: str, message: str) -> None:
    path = home / "x.toml"
    path.write_text(f"[train]\n{value}\n")
    with pytest.raises(ArgumentError, match=re.escape(message)):
        load(path, TABLES)


def test_an_extra_on_the_command_line() -> None:
    def error(*arguments: str, **environment: str) -> str:
        done = run("check", "leak", "BTCUSDT", "--source", "sample", *arguments, **environment)
        assert isinstance(done.exception, ArgumentError), done.output
        return str(done.exception)

    assert error("--extra", "funding") == "--extra is 'funding', expected NAME=FILE"
    assert error("--extra", "a=b.csv", "--extra", "a=c.csv") == (
        "--extra a is given twice; remove one"
    )
    assert error("--extra-lag", "a=8h", ATB_FAST_EXTRA="b=b.csv") == (
        "--extra-lag is given for 'a', but --extra is not (found: b); add --extra a=FILE, or "
        "remove it (--extra is from ATB_FAST_EXTRA)"
    )
    assert error("--extra", "a=b.csv", "--recipe", "basic") == (
        "--extra does not apply to the basic recipe; remove it, or use a recipe file that "
        "lists the column under `extra` and reads it"
    )
    assert "[default: " not in run("train", "model", "--help").output.partition("--extra ")[2][:400]


def test_a_recipe_file_is_relative_to_the_settings_file(home: Path) -> None:
    (home / "set").mkdir()
    (home / "set" / "mine.toml").write_text(
        'name = "mine"\ntimeframe = "4h"\nsequence_length = 30\n'
        '[features]\nx = "log(close / open)"\n[target]\nkind = "log_return"\nhorizon = 3\n'
    )
    (home / "set" / "atb.toml").write_text('[train]\nrecipe = "mine.toml"\nhorizon = 5\n')
    options = shown("--config", "set/atb.toml")
    assert options["recipe"] == ("set/mine.toml", "set/atb.toml")
    assert options["timeframe"] == ("4h", "default")
    assert options["sequence_length"] == (30, "default")
    assert options["horizon"] == (5, "set/atb.toml")
    done = run("config", "show", ATB_FAST_RECIPE="missing.toml")
    assert isinstance(done.exception, ArgumentError)
    assert "recipe missing.toml cannot be read" in str(done.exception)


def test_the_basic_recipe_has_a_command_of_its_own() -> None:
    done = run("train", "model", "BTCUSDT", "--recipe", "basic")
    assert isinstance(done.exception, ArgumentError)
    assert str(done.exception) == (
        "train model does not train the basic recipe; use atb-fast train price"
    )
