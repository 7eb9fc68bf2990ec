"""The engine `exact` compared with scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from small_networks import HEADS, with_head

from atb_fast import TrainingConfig
from atb_fast._core import FeatureMatrix
from atb_fast.callbacks import Listener
from atb_fast.config import Engine, FitOptions
from atb_fast.errors import TrainingError
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split
from atb_fast.recipes.networks import Linear, Mlp
from atb_fast.recipes.recipe import Recipe
from atb_fast.training.device import decide
from atb_fast.training.engine import FitResult, fit
from atb_fast.training.exact import solve
from atb_fast.training.predict import predict_outputs
from atb_fast.training.train import train

LENGTH = 12


def windowed(market: Market, recipe: str) -> WindowedData:
    options: dict[str, Any] = {"sequence_length": LENGTH} if recipe == "legacy" else {}
    config = TrainingConfig(
        symbol="BTCUSDT", source="sample", recipe=recipe, force_price_only=True, **options
    )
    return split(prepare(Market(market.candles.head(900), None), config), config)


@pytest.fixture(scope="module", params=["legacy", "basic"])
def data(market: Market, request: pytest.FixtureRequest) -> WindowedData:
    return windowed(market, request.param)


def inputs(data: WindowedData, starts: Any, bars: int) -> Any:
    return data.windows(starts)[:, -bars:].reshape(len(starts), -1).astype(np.float64)


@pytest.mark.parametrize("l2", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("bars", [1, 5])
def test_ridge_equals_scikit_learn(data: WindowedData, bars: int, l2: float) -> None:
    data = with_head(data, "linear")
    found = solve(data, Linear(bars=bars, l2=l2))
    x = inputs(data, data.train, bars)
    expected = Ridge(alpha=l2, solver="svd").fit(x, data.fitted(data.train))
    np.testing.assert_allclose(found.kernel[:, 0], expected.coef_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.bias, expected.intercept_, rtol=1e-6, atol=1e-8)
    for loss, part in ((found.loss, data.train), (found.val_loss, data.validation)):
        residuals = expected.predict(inputs(data, part, bars)) - data.fitted(part)
        assert loss == pytest.approx(np.mean(residuals**2), rel=1e-8)


def mean_loss(labels: Any, probabilities: Any, weights: Any) -> float:
    """Return the sum of the weighted losses, divided by their number, as in Keras."""
    total = log_loss(labels, probabilities, sample_weight=weights, normalize=False)
    return float(total) / len(labels)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("head", ["sigmoid", "softmax"])
@pytest.mark.parametrize(("bars", "l2"), [(1, 1.0), (5, 0.1), (1, 1e4)])
def test_logistic_regression_equals_scikit_learn(
    data: WindowedData, head: str, bars: int, l2: float, weighted: bool
) -> None:
    data = with_head(data, head, weighted=weighted)
    found = solve(data, Linear(bars=bars, l2=l2))
    x, y = inputs(data, data.train, bars), data.fitted(data.train)
    weights = held_weights = None
    if data.labels.weights is not None:
        weights, held_weights = (
            data.labels.weights[part + data.length] for part in (data.train, data.validation)
        )
    expected = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=100_000)
    expected.fit(x, y, sample_weight=weights)
    if head == "sigmoid":
        kernel, bias = found.kernel, found.bias
        probabilities = 1 / (1 + np.exp(-(x @ kernel + bias)))[:, 0]
        probabilities = np.column_stack([1 - probabilities, probabilities])
    else:
        outputs = x @ found.kernel + found.bias
        probabilities = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected.predict_proba(x), atol=1e-5)
    coefficients = np.atleast_2d(expected.coef_).T
    scale = np.abs(coefficients).max()
    np.testing.assert_allclose(found.kernel, coefficients, atol=1e-4 * scale)
    assert found.loss == pytest.approx(mean_loss(y, probabilities, weights), rel=1e-6)
    held = expected.predict_proba(inputs(data, data.validation, bars))
    held_loss = mean_loss(data.fitted(data.validation), held, held_weights)
    assert found.val_loss == pytest.approx(held_loss, rel=1e-4)


def test_separable_classes_have_finite_weights(data: WindowedData) -> None:
    data = with_head(data, "sigmoid", weighted=False)
    column = data.prepared.matrix.values[:, 0]
    values = np.full(len(column), np.nan)
    values[1:] = column[:-1] > np.median(column)
    data = replace(data, labels=replace(data.labels, values=values))
    found = solve(data, Linear(l2=1e-6))
    assert np.isfinite(found.kernel).all()


@pytest.mark.parametrize(
    ("case", "head", "why"),
    [
        ("outlier", "sigmoid", "there is no solution after 100 steps"),
        ("twice", "sigmoid", "its equations are singular"),
        ("twice", "linear", "its equations are singular"),
    ],
)
def test_what_cannot_be_solved_is_an_error(market: Market, case: str, head: str, why: str) -> None:
    data = with_head(windowed(market, "legacy"), head, weighted=False)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(data.prepared.matrix), 4)).astype(np.float32)
    if case == "outlier":
        values[data.train[3] + LENGTH - 1] *= 1e12
    else:
        values[:, 1:] = values[:, :1] * np.float32(1e12)
    matrix = FeatureMatrix(values, ["a", "b", "c", "d"])
    data = replace(data, prepared=replace(data.prepared, matrix=matrix))
    with pytest.raises(TrainingError, match=f"{why}; check the candles for outliers, or use"):
        solve(data, Linear(l2=1e-6))


def test_the_base_is_not_learned_again(market: Market) -> None:
    data = with_head(windowed(market, "legacy"), "linear")
    features = data.prepared.matrix.shape[1]
    base = (np.linspace(-1, 1, features), 0.25)
    based = replace(data, labels=replace(data.labels, base=base))
    found = solve(based, Linear(l2=10.0))
    x = inputs(data, data.train, 1)
    rest = data.fitted(data.train) - (x @ base[0] + base[1])
    expected = Ridge(alpha=10.0).fit(x, rest)
    np.testing.assert_allclose(found.kernel[:, 0], expected.coef_, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("engine", ["auto", "exact"])
def test_the_fit_writes_the_solution_into_the_model(
    data: WindowedData, engine: Engine, head: str
) -> None:
    from keras.callbacks import LambdaCallback

    class Seen(Listener):
        def epoch(self, number: int, logs: dict[str, float]) -> None:
            seen.append((number, logs))

    seen: list[tuple[int, dict[str, float]]] = []
    called: list[dict[str, float]] = []
    data, network = with_head(data, head), Linear(bars=2)
    model = network.build(data.length, data.prepared.matrix.shape[1], head=data.output.head)
    fitted = fit(
        model,
        data,
        FitOptions(engine=engine),
        network=network,
        listener=Seen(),
        callbacks=[LambdaCallback(on_epoch_end=lambda epoch, logs: called.append(dict(logs)))],
    )
    expected = solve(data, network)
    assert (fitted.engine, fitted.epochs, fitted.best_epoch) == ("exact", 1, 1)
    assert fitted.history["loss"] == [expected.loss]
    assert fitted.history["val_loss"] == [expected.val_loss]
    assert called == [{name: value for name, (value,) in fitted.history.items()}]
    ((number, logs),) = seen
    reference = "val_persistence_rmse" if head == "linear" else "val_shares_loss"
    assert number == 1
    assert logs[reference] > 0
    outputs = predict_outputs(model, data, data.validation)
    if head == "linear":
        loss = float(np.mean((outputs - data.fitted(data.validation)) ** 2))
    else:
        if head == "softmax":  # float32 does not sum to 1 exactly
            outputs /= outputs.sum(axis=1, keepdims=True)
        assert data.labels.weights is not None
        weights = data.labels.weights[data.validation + data.length]
        loss = mean_loss(data.fitted(data.validation), outputs, weights)
        assert logs[reference] == pytest.approx(best_constant(data), rel=1e-6)
    assert loss == pytest.approx(expected.val_loss, rel=1e-4)


def best_constant(data: WindowedData) -> float:
    """Return the validation loss of the constant with the lowest training loss."""
    assert data.labels.weights is not None
    weights = data.labels.weights[data.train + data.length]
    constant = DummyClassifier(strategy="prior")
    constant.fit(data.train[:, None], data.fitted(data.train), sample_weight=weights)
    weights = data.labels.weights[data.validation + data.length]
    probabilities = constant.predict_proba(data.validation[:, None])
    return mean_loss(data.fitted(data.validation), probabilities, weights)


def test_gradient_descent_ends_near_the_solution(market: Market) -> None:
    data, network = with_head(windowed(market, "legacy"), "sigmoid"), Linear(l2=1e-3)
    exact = solve(data, network)
    model = network.build(data.length, data.prepared.matrix.shape[1], head=data.output.head)
    options = FitOptions(engine="compiled", epochs=60, patience=60, seed=1)
    fitted = fit(model, data, options, network=network)
    assert exact.loss <= fitted.history["loss"][-1] <= 1.05 * exact.loss


def test_recipes_with_the_linear_network_are_solved_and_shrunk(market: Market) -> None:
    config = TrainingConfig(
        symbol="BTCUSDT", source="sample", recipe="causal", force_price_only=True
    )
    assert isinstance(config.definition, Recipe)
    recipe = replace(config.definition, network=Linear())
    prepared = recipe.prepare(Market(market.candles.head(900), None), config, context(config))
    data = recipe.windows(prepared, config, recipe.parts(prepared, config))
    for gpus in ([], ["/gpu:0"]):
        policy = decide(gpus, engine="auto", mixed_precision=True, batch_size=None)
        model, fitted = train(recipe, config, data, policy)
        assert fitted.engine == "exact"
        shrinkage = recipe.shrinkage(data, lambda starts: unshrunk(data, starts))
        assert fitted.shrinkage == pytest.approx(shrinkage, rel=1e-4)
        outputs = predict_outputs(model, data, data.test)
        expected = shrinkage * unshrunk(data, data.test)
        np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-6)


def context(config: TrainingConfig) -> Any:
    from atb_fast.recipes.base import Context

    return Context(config)


def unshrunk(data: WindowedData, starts: Any) -> Any:
    found = solve(data, Linear())
    return (inputs(data, starts, 1) @ found.kernel + found.bias)[:, 0]


def test_the_exact_engine_fits_nothing_else(market: Market) -> None:
    from keras.callbacks import LambdaCallback

    data = with_head(windowed(market, "legacy"), "linear")
    features = data.prepared.matrix.shape[1]

    def fitted(network: Any, engine: Engine, callbacks: Any = ()) -> FitResult:
        model = network.build(data.length, features)
        options = FitOptions(engine=engine, epochs=1)
        return fit(model, data, options, network=network, callbacks=callbacks)

    with pytest.raises(TrainingError, match="solves only the network linear; use --engine auto"):
        fitted(Mlp(units=3), "exact")
    counting = LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    with pytest.raises(TrainingError, match="LambdaCallback is called for every batch"):
        fitted(Linear(), "exact", [counting])
    assert fitted(Linear(), "auto", [counting]).engine == "keras"
    assert fitted(Linear(), "compiled").engine == "compiled"
    assert fitted(Shifted(), "auto").engine == "compiled"
    with pytest.raises(TrainingError, match="solves only the network linear"):
        fitted(Shifted(), "exact")


class Shifted(Linear):
    """A linear network of the first row of a window instead of the last ones."""

    def hidden(self, sequence_length: int, policy: str) -> Any:
        from keras import layers

        return [layers.Cropping1D((0, sequence_length - 1)), layers.Flatten()]


def test_a_network_that_a_recipe_builds_itself_is_trained(market: Market) -> None:
    class Own(Recipe):
        def build(self, length: int, features: int, **_: Any) -> Any:
            return Shifted().build(length, features)

    features = {"return_1": "log(close / lag(close, 1))"}
    recipe = Own(name="own", features=features, network=Linear())
    config = TrainingConfig(symbol="BTCUSDT", source="sample", recipe=recipe, epochs=1)
    prepared = recipe.prepare(Market(market.candles.head(900), None), config, context(config))
    data = recipe.windows(prepared, config, recipe.parts(prepared, config))
    policy = decide([], engine="auto", mixed_precision=True, batch_size=None)
    _, fitted = train(recipe, config, data, policy)
    assert fitted.engine == "compiled"


def test_too_many_weights_are_an_error(market: Market) -> None:
    data = with_head(windowed(market, "legacy"), "linear")
    with pytest.raises(TrainingError, match=r"36,864 weights, .* at most 8,192; use fewer"):
        solve(data, Linear(bars=4096))
