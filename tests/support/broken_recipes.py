"""Recipes that fail."""

from __future__ import annotations

from typing import Any, NoReturn

from atb_fast import BaseRecipe


class Exhausted(BaseRecipe):
    """A recipe that needs too much memory."""

    name = "exhausted"

    def prepare(self, *_: Any) -> NoReturn:
        """Fail."""
        raise MemoryError("1 TB for windows")
