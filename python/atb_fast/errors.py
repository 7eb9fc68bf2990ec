"""The errors that atb-fast raises on purpose, each with its exit code."""

from __future__ import annotations

from collections.abc import Sequence


class AtbFastError(Exception):
    """Base class of every error that atb-fast raises on purpose.

    The message says what was received, what was expected, and how to fix it.
    """

    exit_code = 1
    meaning = "an internal error"


class ArgumentError(AtbFastError, ValueError):
    """An invalid option or argument, or options that contradict each other.

    Attributes:
        options: The names of the options that the message is about, for example `start_date`.
    """

    exit_code = 2
    meaning = "invalid options"

    def __init__(self, message: str, options: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.options = tuple(options)


class DataError(AtbFastError, ValueError):
    """Candles, sentiment or frames that cannot be used."""

    exit_code = 3
    meaning = "unusable candles or sentiment, or data verify found problems"


class TrainingError(AtbFastError, RuntimeError):
    """Training did not produce a usable model."""

    exit_code = 4
    meaning = "training failed"


class ExportError(AtbFastError, RuntimeError):
    """The ONNX model could not be exported, or its predictions differ from those of Keras."""

    exit_code = 5
    meaning = "the ONNX export failed (the model is kept)"


class StorageError(AtbFastError, OSError):
    """The registry or the cache directory cannot be used, or stored data that is needed is damaged.

    `data verify` and `data repair` find and replace damaged data. What `data verify` finds is a
    `DataError`.
    """

    exit_code = 6
    meaning = "the registry or the cache directory cannot be used, or stored data is damaged"


class MissingExtraError(AtbFastError, ImportError):
    """A required package is not installed."""

    exit_code = 7
    meaning = "a required package is not installed"


class FetchError(AtbFastError, OSError):
    """Candles or sentiment are not stored and cannot be downloaded."""

    exit_code = 8
    meaning = "candles or sentiment are not stored and cannot be downloaded"


class BundleError(AtbFastError, ValueError):
    """A bundle is missing, is damaged, or breaks the contract with the engines."""

    exit_code = 9
    meaning = "a bundle is missing, is damaged, or must not go live"


class LeakError(AtbFastError, ValueError):
    """A recipe has look-ahead bias."""

    exit_code = 10
    meaning = "a recipe has look-ahead bias"


#: Exit code of the command line after Ctrl-C, SIGTERM or SIGHUP.
INTERRUPTED = 130
#: Exit code of the command line if the reader of its output has ended; shells report SIGPIPE so.
PIPE_CLOSED = 141

_KINDS: list[type[AtbFastError]] = [AtbFastError, *AtbFastError.__subclasses__()]
#: What each exit code means.
EXIT_CODES = {
    0: "success",
    **{kind.exit_code: kind.meaning for kind in _KINDS},
    INTERRUPTED: "interrupted",
    PIPE_CLOSED: "the reader of the output has ended",
}


def message_and_code(error: AtbFastError | OSError) -> tuple[str, int]:
    """Return the one-line message for an expected error, and its exit code."""
    if isinstance(error, AtbFastError):
        return str(error), error.exit_code
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or error
    return f"{where}{what}; check that it can be read and written", StorageError.exit_code
