"""All types of bundles satisfy the contract with the engines; each rule is broken on purpose."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_contract
import numpy as np
import onnx
import pytest
from engine_contract import violations
from sealing import reseal

from atb_fast.errors import BundleError
from atb_fast.serving import references, registry
from atb_fast.serving.verification import verify

TYPES = ("sentiment", "price", "basic")


@pytest.mark.parametrize("model_type", TYPES)
def test_bundles_satisfy_the_contract(models: Path, model_type: str) -> None:
    assert violations(models, "BTCUSDT", model_type) == set()
    report = verify(references.find(models / "BTCUSDT" / model_type / "latest"))
    assert (report.problems, report.unchecked) == ((), ())
    assert report.skew == 0.0
    assert report.prediction_difference is not None
    assert 0 < report.prediction_difference < 1e-6


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(bundle: Path) -> None:
        document = json.loads((bundle / name).read_text())
        change(document)
        (bundle / name).write_text(json.dumps(document))

    return apply


def metadata(**changes: Any) -> Callable[[Path], object]:
    return edit("metadata.json", lambda document: document.update(changes))


def without(key: str) -> Callable[[Path], object]:
    return edit("metadata.json", lambda document: document.pop(key))


def graph(change: Callable[[Any], object]) -> Callable[[Path], object]:
    def apply(bundle: Path) -> None:
        model = onnx.load(bundle / "model.onnx")
        change(model)
        onnx.save(model, bundle / "model.onnx")

    return apply


def fixed_batch(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def two_outputs_wide(model: Any) -> None:
    last = model.graph.node[-1]
    last.output[0] = "single"
    model.graph.node.append(onnx.helper.make_node("Concat", ["single"] * 2, ["prediction"], axis=1))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2


def not_a_number(model: Any) -> None:
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            values = np.full(list(weight.dims), np.nan, np.float32)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))


def external(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    onnx.save_model(
        model,
        bundle / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )


def truncated(bundle: Path) -> None:
    content = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(content[: len(content) // 2])


def looped(model: Any) -> None:
    """Let a loop of one step return the prediction."""
    helper, kinds = onnx.helper, onnx.TensorProto
    model.graph.node[-1].output[0] = "single"
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("Identity", ["before"], ["after"]),
        ],
        "body",
        [
            value("step", kinds.INT64, []),
            value("go", kinds.BOOL, []),
            value("before", kinds.FLOAT, [None, 1]),
        ],
        [value("still", kinds.BOOL, []), value("after", kinds.FLOAT, [None, 1])],
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1), "steps"))
    node = helper.make_node("Loop", ["steps", "", "single"], ["prediction"], body=body)
    model.graph.node.append(node)


def shorter(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 60


def reversed_features(bundle: Path) -> None:
    edit("feature_schema.json", lambda d: d["features"].reverse())(bundle)
    edit("metadata.json", lambda d: d["feature_names"].reverse())(bundle)


def of_60_rows(bundle: Path) -> None:
    for name in ("feature_schema.json", "metadata.json"):
        edit(name, lambda d: d.update(sequence_length=60))(bundle)
    metadata(
        price_normalization={"method": "rolling_minmax", "window": 60, "target_feature": "close"}
    )(bundle)
    graph(shorter)(bundle)


def not_finite_schema(bundle: Path) -> None:
    edit("feature_schema.json", lambda d: d["features"][0].update(x=float("inf")))(bundle)


#: For each rule, how it is broken; in a basic bundle where noted.
BREAKS: list[tuple[str, Callable[[Path], object]]] = [
    *(("keys", without(key)) for key in ("has_sentiment", "dataset", "training_date")),
    ("normalization-params", metadata(normalization_params={"mean": 0, "std": 1})),
    ("finite", metadata(robustness_results={"rmse": float("nan")})),
    ("finite", not_finite_schema),
    ("identity", metadata(symbol="ETHUSDT")),
    ("identity", metadata(model_type="other")),
    ("version-id", metadata(version_id="2020-01-01_00h00m00s_v1")),
    ("framework", metadata(framework="keras")),
    ("framework", metadata(model_file="other.onnx")),
    ("task", metadata(task_type="classification")),
    ("dates", metadata(created_at="2020-01-01T00:00:00+00:00")),
    ("dates", metadata(created_at="yesterday", training_date="yesterday")),
    ("diagnostics", metadata(diagnostics={"plots": "yes", "robustness": 1, "onnx": None})),
    ("diagnostics", metadata(diagnostics={"plots": True})),
    ("types", metadata(has_sentiment="no")),
    ("types", metadata(dataset=[])),
    ("timeframe", metadata(timeframe=None)),
    ("price-normalization", without("price_normalization")),
    ("price-normalization", metadata(price_normalization={"mean": 1.0, "std": 2.0})),
    ("length", metadata(sequence_length=7)),
    ("feature-order", edit("feature_schema.json", lambda d: d["features"].reverse())),
    ("required", edit("feature_schema.json", lambda d: d["features"][0].update(required=False))),
    ("json", lambda bundle: (bundle / "metadata.json").write_text("{")),
    ("onnx-count", lambda bundle: shutil.copy(bundle / "model.onnx", bundle / "copy.onnx")),
    ("onnx", truncated),
    ("opset", graph(lambda m: setattr(m.opset_import[0], "version", 18))),
    ("ir", graph(lambda m: setattr(m, "ir_version", 9))),
    ("external-data", external),
    ("loop", graph(looped)),
    ("input", graph(fixed_batch)),
    ("input-shape", graph(shorter)),
    ("output-shape", graph(two_outputs_wide)),
    ("output-finite", graph(not_a_number)),
    ("basic-features", reversed_features),
    ("basic-length", of_60_rows),
]
#: Rules broken next to the bundle, which `models verify` does not see.
BESIDE: dict[str, Callable[[Path], object]] = {
    "version-name": lambda home: (home / ".hidden").mkdir(),
    "part": lambda home: (home / "with space").mkdir(),
    "no-latest": lambda home: (home / "latest").unlink(),
    "latest-outside": lambda home: relink(home, "../../../elsewhere"),
    "latest-absolute": lambda home: relink(home, str((home / "latest").resolve())),
    "latest-dangles": lambda home: relink(home, "gone"),
}


def relink(home: Path, target: str) -> None:
    (home / "latest").unlink()
    (home / "latest").symlink_to(target)


def test_every_rule_has_a_case() -> None:
    source = Path(engine_contract.__file__).read_text()
    rules = set(re.findall(r"""(?:add\(|\{|return )"([a-z-]+)"[)}\n]""", source))
    assert rules == {rule for rule, _ in BREAKS} | set(BESIDE) | {"basic-timeframe"}


@pytest.mark.parametrize("number", range(len(BREAKS)), ids=lambda n: f"{n}-{BREAKS[n][0]}")
def test_a_broken_rule_is_caught(models: Path, tmp_path: Path, number: int) -> None:
    """Both the independent checker and `models verify` catch it."""
    rule, break_it = BREAKS[number]
    kind = "basic" if rule.startswith("basic") else TYPES[number % 3]
    shutil.copytree(models / "BTCUSDT" / kind, tmp_path / "BTCUSDT" / kind, symlinks=True)
    bundle = (tmp_path / "BTCUSDT" / kind / "latest").resolve()
    break_it(bundle)
    reseal(bundle)
    assert rule in violations(tmp_path, "BTCUSDT", kind)
    assert verify(bundle).problems


@pytest.mark.parametrize("rule", BESIDE)
def test_problems_next_to_the_bundle_are_caught(models: Path, tmp_path: Path, rule: str) -> None:
    root = tmp_path / "registry"
    home = root / "BTCUSDT" / "basic"
    shutil.copytree(models / "BTCUSDT" / "basic", home, symlinks=True)
    shutil.copytree((home / "latest").resolve(), tmp_path / "elsewhere")
    BESIDE[rule](home)
    assert rule in violations(root, "BTCUSDT", "basic")
    if "latest" in rule:
        with pytest.raises(BundleError):
            references.find("BTCUSDT:1h:basic", root)
    else:
        assert [path.name for path in registry.versions(root)] == [(home / "latest").resolve().name]


def test_a_basic_bundle_with_another_timeframe_is_caught(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "BTCUSDT" / "basic", tmp_path / "BTCUSDT" / "basic", symlinks=True)
    bundle = (tmp_path / "BTCUSDT" / "basic" / "latest").resolve()
    metadata(timeframe="4h")(bundle)
    reseal(bundle)
    assert violations(tmp_path, "BTCUSDT", "basic") == {"basic-timeframe"}
    # A bundle of 4h may exist but not be live: see the e2e tests. This one is of 4h by name only.
    (problem,) = verify(bundle).problems
    assert "60 minutes apart, expected 240" in problem


def of_dataset(change: Callable[[Any], object]) -> Callable[[Path], object]:
    return edit("metadata.json", lambda d: change(d["dataset"]))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            of_dataset(lambda d: d.pop("trained_until")),
            "and trained_until None, expected ISO times",
        ),
        (of_dataset(lambda d: d.pop("split")), "has the split None and trained_until"),
        (of_dataset(lambda d: d.update(split=[])), r"has the split \[\] and trained_until"),
        (of_dataset(lambda d: d["split"].pop("test")), "expected ISO times in UTC"),
        (of_dataset(lambda d: d["split"]["train"].pop("first")), "expected ISO times in UTC"),
        (of_dataset(lambda d: d.update(trained_until="2024-01-01")), "expected ISO times in UTC"),
        (
            of_dataset(lambda d: d["split"]["train"].update(last=d["split"]["test"]["last"])),
            "expected ascending times within each part",
        ),
        (
            of_dataset(lambda d: d["split"].update(test=d["split"]["train"])),
            "and train, validation, test in this order",
        ),
        (
            of_dataset(lambda d: d.update(trained_until=d["split"]["validation"]["last"])),
            "in-sample predictions would pass as out of sample",
        ),
    ],
)
def test_times_of_the_parts_that_cannot_be_right(
    models: Path, tmp_path: Path, break_it: Callable[[Path], object], message: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree((models / "BTCUSDT" / "price" / "latest").resolve(), bundle)
    break_it(bundle)
    reseal(bundle)
    (problem,) = verify(bundle).problems
    assert re.search(message, problem)


def test_bundles_of_early_versions_record_no_times_of_the_parts(
    models: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree((models / "BTCUSDT" / "price" / "latest").resolve(), bundle)
    of_dataset(lambda d: [d.pop(name) for name in ("split", "trained_until")])(bundle)
    reseal(bundle)
    assert verify(bundle).problems == ()


def with_samples(bundle: Path, **changes: Callable[[Any], Any]) -> None:
    with np.load(bundle / "samples.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    for name, change in changes.items():
        arrays[name] = change(arrays[name])
    np.savez(bundle / "samples.npz", **arrays)
    reseal(bundle)


def moved(cells: Any) -> Any:
    cells[3, 50, 2] += 2e-6
    return cells


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": moved}, "train/serve skew: a feature differs by 2"),
        ({"windows": lambda a: a * np.nan}, "train/serve skew: a feature differs by nan"),
        ({"predictions": lambda a: a * (1 + 2e-5)}, "a prediction differs from that of Keras by 2"),
        (
            {"predictions": lambda a: a * (1 + 2e-5), "scale": lambda a: a * 1e300},
            "a prediction differs from that of Keras by 2",
        ),
        ({"predictions": lambda a: a * np.nan}, "a prediction differs from that of Keras by nan"),
        ({"candles": lambda a: a * 1.0001}, "train/serve skew|a prediction differs"),
        ({"index": lambda a: np.stack([a[0], 100 - a[1]])}, "train/serve skew"),
        ({"predictions": lambda a: a[:3]}, "has 16 windows and 3 predictions"),
        ({"windows": lambda a: a[:0], "predictions": lambda a: a[:0]}, "has 0 windows"),
    ],
)
def test_skew_is_caught(models: Path, tmp_path: Path, changes: Any, message: str) -> None:
    live = (models / "BTCUSDT" / "sentiment" / "latest").resolve()
    bundle = tmp_path / "BTCUSDT" / "sentiment" / live.name
    shutil.copytree(live, bundle)
    with_samples(bundle, **changes)
    problems = "; ".join(verify(bundle).problems)
    assert re.search(message, problems), problems


def test_samples_that_unpack_to_gigabytes_are_rejected(models: Path, tmp_path: Path) -> None:
    live = (models / "BTCUSDT" / "price" / "latest").resolve()
    bundle = tmp_path / live.name
    shutil.copytree(live, bundle)
    with zipfile.ZipFile(bundle / "samples.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("windows.npy", bytes(100 << 20))
    reseal(bundle)
    assert "bytes unpacked, expected at most" in "; ".join(verify(bundle).problems)


def test_the_same_weights_give_the_same_bytes(models: Path, tmp_path: Path) -> None:
    """Even in another process, where names and hashes differ."""
    import hashlib
    import subprocess
    import sys

    bundle = (models / "BTCUSDT" / "sentiment" / "latest").resolve()
    code = (
        "import sys, hashlib, keras\n"
        "from atb_fast.bundles.onnx_export import convert\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "print(hashlib.sha256(convert(model, properties={'b': '2', 'a': '1'})).hexdigest())\n"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code, str(bundle / "model.keras")],
            capture_output=True,
            text=True,
            check=True,
            env={
                "PYTHONHASHSEED": seed,
                "KERAS_BACKEND": "tensorflow",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
        ).stdout.splitlines()[-1]
        for seed in ("1", "2")
    }
    import keras

    from atb_fast.bundles.onnx_export import convert

    model = keras.models.load_model(bundle / "model.keras")
    seen.add(hashlib.sha256(convert(model, properties={"a": "1", "b": "2"})).hexdigest())
    assert len(seen) == 1
