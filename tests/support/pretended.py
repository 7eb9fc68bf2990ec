"""An executor that pretends to train: results follow from the documents of trials, at once."""

from __future__ import annotations

import base64
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Self

import numpy as np

from atb_fast.callbacks import SILENT, Listener
from atb_fast.experiments.executors import Failure, Task

Document = Mapping[str, Any]
BARS = 400


class Pretended:
    """Runs trials in this process, without training anything.

    Args:
        skill: Returns the ratio to the baseline of a trial.
        noise: Deviation of the losses by bar around that.
        scale: Returns the scale of the losses of a trial and of its baseline.
        error: Returns the error of a trial, None for none, or raises.
        backwards: Whether the last task ends first.
    """

    def __init__(
        self,
        skill: Callable[[Document], float] = lambda _: 1.0,
        *,
        noise: float = 0.05,
        scale: Callable[[Document], float] = lambda _: 1.0,
        error: Callable[[Document], str | Failure | None] = lambda _: None,
        backwards: bool = False,
    ) -> None:
        self.skill, self.noise, self.scale = skill, noise, scale
        self.error, self.backwards = error, backwards
        self.ran: list[str] = []
        self.documents: list[Document] = []
        self.shared: set[str] = set()

    def share(self, key: str, content: bytes) -> None:
        assert content
        self.shared.add(key)

    def run(
        self, tasks: Sequence[Task], *, listen: Callable[[Task], Listener] = lambda _: SILENT
    ) -> Generator[tuple[Task, Any], None, None]:
        for task in reversed(tasks) if self.backwards else tasks:
            assert set(task.shared) <= self.shared
            document = task.arguments[0]
            error = self.error(document)
            self.ran.append(task.name)
            self.documents.append(document)
            yield task, error if isinstance(error, Failure) else self._result(task, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _result(self, task: Task, error: str | None) -> dict[str, Any]:
        document = task.arguments[0]
        random = np.random.default_rng(int(task.name, 16))
        count = document["folds"].get("number", 1)
        ratio = self.skill(document)
        folds, losses = [], {}
        for market in document["markets"]:
            shared = np.random.default_rng(7).gamma(1.0, size=BARS)
            shared *= self.scale(document)
            own = shared * (ratio**2 + self.noise * random.standard_normal(BARS))
            fold = np.repeat(np.arange(1, count + 1), -(-BARS // count))[:BARS]
            for number in range(1, count + 1):
                inside = fold == number
                found = float(np.sqrt(own[inside].mean() / shared[inside].mean()))
                one = {"symbol": market["symbol"], "number": number, "last": "2024-12-31"}
                folds.append({**one, "reference_ratio": found})
            times = np.arange(BARS) * 86_400_000
            columns = {"timestamp": times, "fold": fold, "model": own, "reference": shared}
            losses[market["symbol"]] = {
                name: base64.b64encode(column.tobytes()).decode()
                for name, column in columns.items()
            }
        state, reached = "complete", [each["reference_ratio"] for each in folds]
        prune = document["prune"]
        if error:
            state, folds, losses = "failed", [], {}
        elif prune and np.mean(reached) > 1.5 * np.mean(prune["losses"]):
            state, folds, losses = "pruned", folds[: prune["startup"]], {}
        return {
            "trial_id": task.name,
            "trial": document,
            "state": state,
            "value": float(np.mean(reached)) if state == "complete" else None,
            "folds": folds,
            "pooled": {each: {"rmse": 1.0, "ratio": 0.7} for each in losses},
            "losses": losses,
            "error": error,
            "exit_code": 4 if error else None,
            "run": {"seconds": 0.1, "machine": {}},
        }
