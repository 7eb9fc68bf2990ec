"""What long work calls to tell how far it is."""

from __future__ import annotations

from collections.abc import Callable

#: Called after each epoch with its number (from 1) and Keras' logs.
EpochCallback = Callable[[int, dict[str, float]], None]
#: Called during an epoch with the windows that are done and their number in all.
WindowsCallback = Callable[[int, int], None]
#: Called with the name of a stage when it begins.
StageCallback = Callable[[str], None]
#: Gets what is fetched, the rows so far, and the rows there will be.
OnProgress = Callable[[str, int, int], None]
#: Called with a name, what is done and in all, its unit, and a note.
Update = Callable[[str, int, int, str, str], None]


def quiet(_name: str, _done: int, _total: int) -> None:
    """Show no progress."""
