"""Studies: which trials they run, what they keep, and what they conclude."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from pretended import BARS, Document, Pretended

from atb_fast import (
    ArgumentError,
    AtbFastError,
    DataError,
    Listener,
    StorageError,
    Study,
    TrainingConfig,
)
from atb_fast import sweep as sweep_public
from atb_fast.cli.main import cli
from atb_fast.cli.options import training_configs
from atb_fast.experiments import trial
from atb_fast.experiments.executors import Failure
from atb_fast.runs import ledger

SPACE: dict[str, Any] = {
    "epochs": {"low": 1, "high": 200},
    "seed": list(range(20)),
    "network.dropout": {"low": 0.0, "high": 0.4, "step": 0.1},
}


@pytest.fixture
def base(tmp_path: Path) -> TrainingConfig:
    return TrainingConfig(
        symbol="BTCUSDT", recipe="causal", source="sample", registry=tmp_path / "models"
    )


Sweep = Callable[..., Study]


@pytest.fixture
def sweep(base: TrainingConfig) -> Sweep:
    """Run a study of pretended trials."""

    def run(executor: Pretended | None = None, **options: Any) -> Study:
        given: dict[str, Any] = {"config": base, "space": SPACE, "trials": 12, "holdout": 0}
        given |= options
        return sweep_public(**given, executor=executor or Pretended())

    return run


def epochs(document: Document) -> float:
    """Return a ratio that is lower with more epochs."""
    return 1.1 - float(document["options"]["epochs"]) / 1000


def fewer(document: Document) -> float:
    """Return a ratio that is lower with fewer epochs."""
    return 0.8 + float(document["options"]["epochs"]) / 1000


def documents(made: Study) -> list[dict[str, Any]]:
    return [each.to_dict() for each in made.trials]


def test_the_first_trial_is_the_defaults(sweep: Sweep, base: TrainingConfig) -> None:
    made = sweep()
    first = made.trials[0]
    assert len(made.trials) == 12
    assert first.params == {"epochs": 300, "seed": 42, "network.dropout": 0.2}
    assert first.result["trial"] == made.definition["defaults"]
    assert first.configs == (base,)
    assert len({each.trial_id for each in made.trials}) == 12


def test_trials_are_data_that_follow_from_the_space(sweep: Sweep) -> None:
    for each in sweep().trials[1:]:
        document = each.result["trial"]
        assert each.trial_id == trial.identity(document)
        assert document["options"]["epochs"] == each.params["epochs"]
        assert document["options"]["network_dropout"] == each.params["network.dropout"]


@pytest.mark.parametrize("search", ["tpe", "random"])
def test_the_same_study_twice(search: str, sweep: Sweep, tmp_path: Path) -> None:
    first = sweep(Pretended(epochs), search=search, study=tmp_path / "a")
    again = Pretended(epochs)
    assert sweep(again, search=search, study=tmp_path / "a").to_dict() == first.to_dict()
    assert again.ran == []
    # Another folder, and trials that end in another order.
    backwards = Pretended(epochs, backwards=True)
    other = sweep(backwards, search=search, study=tmp_path / "b")
    assert documents(other) == documents(first)
    assert other.best == first.best
    assert other.verdict == first.verdict
    assert len(backwards.ran) == 12


def test_a_study_goes_on_with_more_trials(sweep: Sweep) -> None:
    few, rest = Pretended(epochs), Pretended(epochs)
    first = sweep(few, trials=6)
    more = sweep(rest, trials=15)
    assert documents(more)[:6] == documents(first)
    assert not set(few.ran) & set(rest.ran)
    assert len(few.ran) + len(rest.ran) == 15
    whole = sweep(Pretended(epochs), trials=15, study=more.folder.with_name("whole"))
    assert documents(whole) == documents(more)


@pytest.mark.parametrize("after", [0, 1, 5, 11])
def test_an_interrupted_study_goes_on(after: int, sweep: Sweep, tmp_path: Path) -> None:
    def interrupt(_: Document) -> None:
        if len(stopped.ran) == after:
            raise KeyboardInterrupt

    stopped = Pretended(epochs, error=interrupt)
    with pytest.raises(KeyboardInterrupt) as stop:
        sweep(stopped, study=tmp_path / "study")
    count = f"saved {after} finished trial{'' if after == 1 else 's'} in {tmp_path / 'study'}"
    assert stop.value.__notes__ == [f"{count}; run the same command to resume"]
    rest = Pretended(epochs)
    made = sweep(rest, study=tmp_path / "study")
    assert len(rest.ran) == 12 - after
    assert documents(made) == documents(sweep(study=tmp_path / "whole", executor=Pretended(epochs)))
    records = [each["id"] for each in ledger.read(tmp_path / "models").records]
    assert records == [each.trial_id for each in made.trials]


def test_candidates_are_not_trained_twice(sweep: Sweep) -> None:
    executor = Pretended()
    made = sweep(executor, space={"seed": [1, 2, 42]}, trials=50)
    assert [each.params["seed"] for each in made.trials[:1]] == [42]
    assert sorted(each.params["seed"] for each in made.trials) == [1, 2, 42]
    assert len(executor.ran) == 3


def test_a_grid_is_in_order(sweep: Sweep) -> None:
    made = sweep(
        space={"seed": [42, 1], "epochs": {"low": 100, "high": 300, "step": 100}}, search="grid"
    )
    assert [(each.params["seed"], each.params["epochs"]) for each in made.trials] == [
        *((42, 300), (42, 100), (42, 200)),
        *((1, 100), (1, 200), (1, 300)),
    ]


@pytest.mark.parametrize(
    ("trials", "words"), [(2, ""), (3, ""), (4, "3 different candidates, fewer than --trials 4")]
)
def test_a_search_that_ends_early_says_so(
    trials: int, words: str, sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="atb_fast"):
        made = sweep(space={"seed": [1, 2]}, search="grid", trials=trials)
    assert len(made.trials) == min(trials, 3)
    said = [each.message for each in caplog.records if "the search found" in each.message]
    assert [words in each for each in said] == [True] * bool(words)


def test_a_round_is_pruned_by_the_best_before_it(sweep: Sweep) -> None:
    executor = Pretended(lambda document: 3.0 if document["options"]["seed"] % 2 else 1.0)
    made = sweep(executor, search="random")
    best = made.trials[0].result
    ratios = [fold["reference_ratio"] for fold in best["folds"]]
    assert all(each.result["trial"]["prune"] is None for each in made.trials[:4])
    assert made.trials[4].result["trial"]["prune"]["losses"] in [
        [fold["reference_ratio"] for fold in each.result["folds"]] for each in made.trials[:4]
    ]
    assert len(ratios) == 6
    assert made.states["pruned"] == sum(each.params["seed"] % 2 for each in made.trials[4:])
    assert made.verdict["left_out"] == {"pruned": made.states["pruned"]}
    assert made.verdict["trials"] == made.states["complete"]


def test_fewer_trials_than_before_hide_none(sweep: Sweep) -> None:
    made = sweep(Pretended(epochs))
    again = Pretended(epochs)
    assert sweep(again, trials=3).to_dict() == made.to_dict()
    assert again.ran == []


def test_fewer_than_6_folds_or_no_prune(sweep: Sweep) -> None:
    for options in ({"folds": 5}, {"prune": False}):
        made = sweep(**options)
        assert {json.dumps(each.result["trial"]["prune"]) for each in made.trials} == {"null"}


def test_a_failed_trial_is_a_result(sweep: Sweep, tmp_path: Path) -> None:
    def error(document: Document) -> str | Failure | None:
        seed = document["options"]["seed"]
        if seed % 3 == 0 and seed != 42:
            return Failure(trial.identity(document), "the process was killed by SIGKILL", 1)
        return "the loss became NaN" if seed % 3 == 1 else None

    made = sweep(Pretended(error=error))
    assert {each.result["error"] for each in made.trials if each.result["state"] == "failed"} == {
        "the process was killed by SIGKILL",
        "the loss became NaN",
    }
    assert made.verdict["left_out"] == {"failed": made.states["failed"]}
    again = Pretended(error=error)
    assert documents(sweep(again)) == documents(made)
    # That a process was killed says nothing about the trial, so it is tried again.
    killed = [e.trial_id for e in made.trials if "killed" in str(e.result["error"])]
    assert sorted(again.ran) == sorted(killed)
    recorded = {record["id"] for record in ledger.read(tmp_path / "models").records}
    assert recorded == {each.trial_id for each in made.trials} - set(killed)


def test_values_that_contradict_each_other_are_a_failed_trial(sweep: Sweep) -> None:
    space = {"engine": ["exact", "keras"], "network": ["linear", "mlp"], "seed": [1, 2]}
    made = sweep(space=space, search="grid")
    failed = [each for each in made.trials if each.result["state"] == "failed"]
    assert [dict(each.params) for each in failed] == [
        {"engine": "exact", "network": "mlp", "seed": seed} for seed in (1, 2)
    ]
    message = "--engine exact does not fit the network mlp"
    assert all(str(each.result["error"]).startswith(message) for each in failed)
    assert documents(sweep(space=space, search="grid")) == documents(made)


def test_if_all_trials_fail_the_most_common_error_is_that_of_the_study(sweep: Sweep) -> None:
    def error(document: Document) -> str | Failure:
        if document["options"]["seed"] % 4 == 0:
            return Failure(trial.identity(document), "out of memory", 1)
        return "the loss became NaN"

    with pytest.raises(AtbFastError, match="the loss became NaN") as found:
        sweep(Pretended(error=error))
    assert found.value.exit_code == 4
    assert "\n" not in str(found.value)


def test_defaults_that_fail_cannot_be_compared_with(sweep: Sweep) -> None:
    made = sweep(Pretended(error=lambda d: "no" if d["options"]["seed"] == 42 else None))
    assert made.verdict["keep"] == "best"
    assert made.verdict["trial"] == made.best
    assert "The defaults failed" in made.verdict["sentence"]


@pytest.mark.parametrize(
    ("start", "options", "message"),
    [
        (
            "2024-11-01",
            {},
            "^the range has 61 candles, expected at least 1,063 .* to test 6 folds with windows of "
            "120 bars and a horizon of 5 bars; use more candles",
        ),
        (
            "2023-01-01",
            {"holdout": 0.1},
            "^the range before the holdout has 657 candles, expected .*, or a shorter [^,]*$",
        ),
        (
            "2021-10-01",
            {"holdout": 0.3},
            "^the range before the holdout has 8.. candles, expected .*, or a smaller --holdout$",
        ),
        (
            "2018-01-01",
            {"holdout": 0.001},
            "^no forecast is made from .* no holdout to test; make it longer",
        ),
    ],
)
def test_too_few_candles_for_the_defaults_are_an_error_before_the_first_trial(
    start: str, options: dict[str, Any], message: str, sweep: Sweep, base: TrainingConfig
) -> None:
    executor = Pretended()
    made = replace(base, start_date=date.fromisoformat(start), horizon=5)
    with pytest.raises(DataError, match=message):
        sweep(executor, config=made, **options)
    assert executor.ran == []
    assert not base.registry.parent.joinpath(".models-work").exists()
    with pytest.raises(DataError, match=message.replace("^", "^BTCUSDT: ")):
        sweep(config=[made, replace(made, symbol="ETHUSDT")], **options)


def test_candidates_are_not_checked_before_the_first_trial(sweep: Sweep) -> None:
    executor = Pretended()
    sweep(executor, space={"sequence_length": [120, 5000]}, search="grid")
    assert len(executor.ran) == 2


def test_a_planted_signal_is_found(sweep: Sweep) -> None:
    def skill(document: Document) -> float:
        return 0.9 if document["options"]["network_dropout"] == 0.3 else 1.0

    made = sweep(Pretended(skill, noise=0.3), trials=30)
    best = next(each for each in made.trials if each.trial_id == made.best)
    assert made.verdict["keep"] == "best"
    assert made.verdict["trial"] == made.best
    assert best.params["network.dropout"] == 0.3
    assert made.verdict["spa_defaults"] < 0.05
    assert made.verdict["pbo"] < 0.5
    assert "--network-dropout 0.3" in made.command


def test_the_importance_counts_pruned_trials_that_were_finished(sweep: Sweep) -> None:
    def skill(document: Document) -> float:
        options = document["options"]
        return 3.0 if options["seed"] % 2 else 0.9 if options["epochs"] < 300 else 1.0

    executor = Pretended(skill)
    made = sweep(executor, trials=12)
    assert made.states["complete"] == 12
    assert len(executor.ran) > 14  # fewer than 10 were complete during the search
    assert max(made.importance, key=lambda key: made.importance[key]) == "seed"


def test_pruned_trials_are_finished_before_a_trial_is_recommended(
    sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="atb_fast")

    def skill(document: Document) -> float:
        options = document["options"]
        if options["seed"] % 2:
            return 3.0
        return 0.9 if options["network_dropout"] == 0.3 else 1.0

    executor = Pretended(skill, noise=0.3)
    made = sweep(executor, trials=30)
    assert made.verdict["keep"] == "best"
    assert made.states == {"complete": 30, "pruned": 0, "failed": 0}
    assert made.verdict["trials"] == 30
    assert made.verdict["left_out"] == {}
    assert len(executor.ran) > 30
    assert f"finishing {len(executor.ran) - 30} pruned trials to judge it" in caplog.text
    caplog.clear()
    for each in made.trials:
        assert (made.folder / f"{each.trial_id}.json").exists()
    again = Pretended(skill, noise=0.3)
    assert sweep(again, trials=30).to_dict() == made.to_dict()
    assert again.ran == []
    assert "finishing" not in caplog.text


def test_noise_is_not_found(base: TrainingConfig, tmp_path: Path) -> None:
    kept = 0
    for seed in range(5):
        made = sweep_public(
            base,
            SPACE,
            trials=20,
            holdout=0,
            search="random",
            search_seed=seed,
            executor=Pretended(noise=0.3),
        )
        kept += made.verdict["keep"] == "defaults"
        assert made.trials[0].trial_id in made.verdict["confidence_set"]
        assert made.best == made.verdict["best"]
    # Each verdict is wrong with a probability of 5%, and the draws depend on the version of NumPy.
    assert kept >= 4


def test_trials_that_equal_their_own_baseline_are_equal(sweep: Sweep) -> None:
    def scale(document: Document) -> float:
        return 1.0 + float(document["options"]["seed"]) / 100

    made = sweep(Pretended(noise=0.0, scale=scale))
    assert made.verdict["keep"] == "defaults"
    assert made.verdict["gain"] == pytest.approx(0.0)
    assert made.verdict["confidence_set"] == [each.trial_id for each in made.trials]


def test_different_targets_are_named(sweep: Sweep) -> None:
    for space, named in (({"seed": [1, 2]}, False), ({"horizon": [1, 5]}, True)):
        made = sweep(Pretended(), space=space, search="grid")
        assert made.states["complete"] == 2 + (not named)
        sentence = made.verdict["targets_sentence"]
        assert bool(sentence) == named
    assert sentence.startswith("The trials have different targets")
    assert sentence in made.report.read_text()


def test_the_holdout_is_looked_at_once_and_looks_are_counted(sweep: Sweep, tmp_path: Path) -> None:
    executor = Pretended(fewer)
    made = sweep(executor, holdout=0.15)
    until = made.definition["defaults"]["folds"]["until"]
    inside = [each["folds"] for each in executor.documents]
    assert [folds for folds in inside if "holdout" in folds] == [
        {"holdout": until, "embargo": None}
    ] * 2
    assert all(folds["until"] == until for folds in inside if "holdout" not in folds)
    found = made.verdict["holdout"]
    assert found["looks"] == 1
    assert found["best"]["value"] < found["defaults"]["value"]
    assert sweep(Pretended(fewer), holdout=0.15).verdict["holdout"]["looks"] == 1
    other = sweep(Pretended(fewer), holdout=0.15, search_seed=1)
    assert other.verdict["holdout"]["looks"] == 2
    assert "2 looks so far" in other.verdict["holdout_sentence"]
    another = sweep(Pretended(fewer), holdout=0.3)  # it includes the same bars
    assert another.verdict["holdout"]["looks"] == 3
    kinds = [record["kind"] for record in ledger.read(tmp_path / "models").records]
    assert kinds.count("holdout") == 3


def test_the_holdout_has_its_share_of_the_bars(sweep: Sweep) -> None:
    from atb_fast.ingestion import sample

    made = sweep(holdout=0.2)
    times = sample.candles("BTCUSDT", "1d")["timestamp"]
    newer = (times.dt.strftime("%Y-%m-%dT%H:%M:%S+00:00") >= made.verdict["holdout"]["first"]).sum()
    assert newer == pytest.approx(0.2 * len(times), abs=1)


def test_a_record_for_each_trial(sweep: Sweep, tmp_path: Path) -> None:
    made = sweep(Pretended(epochs, backwards=True))
    records = ledger.read(tmp_path / "models").records
    assert [record["id"] for record in records] == [each.trial_id for each in made.trials]
    assert {record["study"] for record in records} == {made.id}
    assert records[3]["metrics"]["value"] == made.trials[3].value
    assert records[3]["metrics"]["ratio"] == 0.7  # as in the pooled figures
    assert records[3]["options"]["epochs"] == made.trials[3].params["epochs"]
    market = made.definition["defaults"]["markets"][0]
    assert records[0]["data"]["BTCUSDT"]["candles"] == market["candles"]


def test_several_symbols_are_one_study(base: TrainingConfig, tmp_path: Path) -> None:
    other = TrainingConfig(
        symbol="ETHUSDT", recipe="causal", source="sample", registry=base.registry
    )
    executor = Pretended(epochs)
    made = sweep_public([base, other], SPACE, trials=6, folds=3, executor=executor)
    assert [fold["symbol"] for fold in made.trials[0].result["folds"]] == [
        *(["BTCUSDT"] * 3),
        *(["ETHUSDT"] * 3),
    ]
    assert made.verdict["bars"] == BARS
    assert len(made.trials[5].result["trial"]["prune"]["losses"]) == 6
    record = ledger.read(tmp_path / "models").records[0]
    assert record["symbols"] == ["BTCUSDT", "ETHUSDT"]
    assert made.command.startswith("atb-fast train model BTCUSDT ETHUSDT ")


def test_the_command_trains_the_same_configuration(sweep: Sweep, base: TrainingConfig) -> None:
    space = {
        "network.kind": ["mlp"],
        "network.units": [24],
        "target": ["smoothed_return"],
        "target.horizon": [3],
        "sequence_length": [40],
        "mixed_precision": [False],
    }
    executor = Pretended(lambda d: 0.5 if d["options"]["network"] else 1.0)
    made = sweep(executor, space=space, embargo=7)
    assert made.verdict["keep"] == "best"
    assert "--embargo 7 " in made.command
    made = sweep(executor, space=space)
    program, *words = shlex.split(made.command)
    assert program == "atb-fast"
    command = cli.commands["train"].commands["model"]  # type: ignore[attr-defined]
    context = command.make_context("model", words[2:])
    params = dict(context.params)
    for name in ("as_json", "jobs", "mlflow"):
        params.pop(name, None)
    (config,) = training_configs(context, params.pop("symbols"), params)
    assert config == made.trials[1].configs[0]


def test_a_changed_recipe_is_written(sweep: Sweep) -> None:
    made = sweep(
        Pretended(lambda d: 0.5 if d["recipe"].get("scaler") == "robust" else 1.0),
        space={"scaler": ["robust"]},
    )
    words = shlex.split(made.command)
    path = words[words.index("--recipe") + 1]
    config = TrainingConfig(symbol="BTCUSDT", recipe=path)
    assert config.definition.specs.keys() == made.trials[0].configs[0].definition.specs.keys()  # type: ignore[attr-defined]
    assert {spec.scaler for spec in config.definition.specs.values()} <= {"robust", "none"}  # type: ignore[attr-defined]


class Told(Listener):
    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []

    def trial(self, result: Mapping[str, Any], done: int, total: int) -> None:
        self.told.append((result["state"], done, total))


def test_a_listener_hears_of_each_trial(sweep: Sweep) -> None:
    listener = Told()
    sweep(listener=listener, trials=5, holdout=0.15)
    assert listener.told == [("complete", done, 5) for done in range(1, 6)]


def test_the_default_folder_is_next_to_the_registry(sweep: Sweep, tmp_path: Path) -> None:
    made = sweep()
    assert made.folder == tmp_path / ".models-work" / "studies" / made.id
    assert json.loads((made.folder / "study.json").read_text()) == made.definition


@pytest.fixture
def finished(sweep: Sweep, tmp_path: Path) -> Iterator[Study]:
    made = sweep(study=tmp_path / "study", trials=5)
    before = {path: path.read_bytes() for path in made.folder.glob("*.json")}
    yield made
    for path, content in before.items():
        if path.exists() and path.name != "0.json":
            assert path.read_bytes() == content or path.stem == made.trials[1].trial_id


@pytest.mark.usefixtures("finished")
def test_the_folder_of_another_study(sweep: Sweep, tmp_path: Path) -> None:
    for options, name in (({"search_seed": 3}, "search_seed"), ({"folds": 7}, "number")):
        differs = rf"study\.json belongs to another study, which differs in {name};"
        with pytest.raises(StorageError, match=differs):
            sweep(study=tmp_path / "study", **options)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"trial_id": 1}', b"\xff", None])
def test_a_damaged_result_is_named(
    content: bytes | None, finished: Study, sweep: Sweep, tmp_path: Path
) -> None:
    path = finished.folder / f"{finished.trials[1].trial_id}.json"
    if content is None:  # the result of another trial
        content = (finished.folder / f"{finished.trials[2].trial_id}.json").read_bytes()
    path.write_bytes(content)
    with pytest.raises(StorageError, match=f"{path.name} is damaged, or not a file of this study"):
        sweep(study=tmp_path / "study", trials=5)
    path.unlink()
    again = Pretended()
    assert documents(sweep(again, study=tmp_path / "study", trials=5)) == documents(finished)
    assert again.ran == [path.stem]


@pytest.mark.parametrize(
    "changes",
    [
        {"pooled": {"BTCUSDT": 5}},
        {"pooled": "none"},
        {"run": []},
        {"run": {"seconds": "1"}},
        {"run": {"machine": ["x86_64"]}},
        {"error": 5},
        {"value": "1.0"},
        {"value": float("nan")},
        {"state": "failed"},
    ],
)
def test_an_edited_result_is_named(
    changes: dict[str, Any], finished: Study, sweep: Sweep, tmp_path: Path
) -> None:
    path = finished.folder / f"{finished.trials[1].trial_id}.json"
    edited = json.loads(path.read_bytes()) | changes
    del edited["sha256"]
    path.write_text(json.dumps(edited))
    with pytest.raises(StorageError, match=f"{path.name} is damaged, or not a file of this study"):
        sweep(study=tmp_path / "study", trials=5)


def test_a_changed_digit_is_noticed(finished: Study, sweep: Sweep) -> None:
    path = finished.folder / f"{finished.trials[1].trial_id}.json"
    changed = json.loads(path.read_bytes())
    changed["value"] += 0.25
    path.write_text(json.dumps(changed))
    with pytest.raises(StorageError, match=f"{path.name} is damaged, or not a file of this study"):
        sweep(study=finished.folder, trials=5)
    del changed["sha256"]  # as in studies of early versions
    path.write_text(json.dumps(changed))
    assert sweep(study=finished.folder, trials=5).trials[1].value == changed["value"]


def test_a_damaged_definition_can_be_moved_elsewhere(finished: Study, sweep: Sweep) -> None:
    path = finished.folder / "study.json"
    for changed in (b"{", path.read_bytes().replace(b'"prune"', b'"prunf"')):
        path.write_bytes(changed)
        with pytest.raises(
            StorageError, match=r"study\.json .* damaged.*, (or .* )?move it elsewhere"
        ) as e:
            sweep(study=finished.folder, trials=5)
        assert "differs in ;" not in str(e.value)
        path.unlink()
        assert sweep(study=finished.folder, trials=5).to_dict() == finished.to_dict()


def test_a_foreign_file_is_named(finished: Study, sweep: Sweep) -> None:
    (finished.folder / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"notes\.txt does not belong to the study; move it"):
        sweep(study=finished.folder, trials=5)
    assert (finished.folder / "notes.txt").read_text() == "mine"


def test_a_folder_with_other_files_is_left_alone(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "thesis.doc").write_text("mine")
    with pytest.raises(StorageError, match=r"has other files, such as thesis\.doc"):
        sweep(study=tmp_path / "study")
    assert not (tmp_path / "study" / "study.json").exists()


def test_a_file_is_not_a_folder(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "study").write_text("")
    with pytest.raises(StorageError, match="study cannot be used for a study"):
        sweep(study=tmp_path / "study")


def test_two_processes(finished: Study, sweep: Sweep) -> None:
    with (
        FileLock(finished.folder / ".lock"),
        pytest.raises(StorageError, match="another process is running the study in"),
    ):
        sweep(study=finished.folder, trials=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"folds": 1.5}, "folds is 1.5"),
        ({"round_size": 0}, "round_size is 0"),
        ({"holdout": 0.6}, "--holdout is 0.6, expected a share from 0 to 0.5"),
        ({"holdout": "a"}, "--holdout is 'a'"),
        ({"search_seed": -1}, "--search-seed is -1"),
        ({"window": "sliding"}, "window is 'sliding'"),
        ({"search": "bayes"}, "search is 'bayes'"),
        ({"config": []}, "config is empty or has a symbol twice"),
        ({"config": 1}, "config has type int"),
        ({"listener": 1}, "listener has type int"),
        ({"jobs": 0}, "jobs is 0"),
    ],
)
def test_invalid_arguments(options: dict[str, Any], message: str, sweep: Sweep) -> None:
    with pytest.raises(ArgumentError, match=message.replace(".", r"\.")):
        sweep(**options)
