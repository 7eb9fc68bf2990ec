"""Targets: what a model predicts, and how its output is read."""

from atb_fast.recipes.targets.anchored import BinaryDirection as BinaryDirection
from atb_fast.recipes.targets.anchored import SmoothedReturn as SmoothedReturn
from atb_fast.recipes.targets.anchored import TripleBarrier as TripleBarrier
from atb_fast.recipes.targets.base import Predict as Predict
from atb_fast.recipes.targets.base import Target as Target
from atb_fast.recipes.targets.meta_label import MetaLabel as MetaLabel
from atb_fast.recipes.targets.prices import Close as Close
from atb_fast.recipes.targets.prices import LogReturn as LogReturn
from atb_fast.recipes.targets.prices import WindowClose as WindowClose
from atb_fast.recipes.targets.volatility import Volatility as Volatility

#: The targets that a recipe can name.
TARGETS: dict[str, type[Target]] = {
    made.kind: made
    for made in (
        *(Close, WindowClose, LogReturn),
        *(BinaryDirection, SmoothedReturn, TripleBarrier, MetaLabel, Volatility),
    )
}
