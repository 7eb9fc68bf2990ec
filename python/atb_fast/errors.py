"""What can go wrong, each kind with the exit code of the command line."""

from __future__ import annotations


class AtbFastError(Exception):
    """Base of every error that atb-fast raises on purpose.

    The message says what was received, what was expected, and how to fix it.
    """

    exit_code = 1


class ArgumentError(AtbFastError, ValueError):
    """An option or argument outside of what is accepted."""

    exit_code = 2


class DataError(AtbFastError, ValueError):
    """Candles, sentiment or frames that cannot be used."""

    exit_code = 3


class TrainingError(AtbFastError, RuntimeError):
    """The training did not give a usable model."""

    exit_code = 4


class ExportError(AtbFastError, RuntimeError):
    """The ONNX model could not be made, or does not agree with the Keras model."""

    exit_code = 5


class StorageError(AtbFastError, OSError):
    """A bundle or the store could not be written, or the store is damaged."""

    exit_code = 6


class MissingExtraError(AtbFastError, ImportError):
    """A part of atb-fast that is not installed."""

    exit_code = 7


class BundleError(AtbFastError, ValueError):
    """A bundle that is not there, is damaged, or breaks the contract with the engines."""

    exit_code = 9


class LeakError(AtbFastError, ValueError):
    """A recipe that sees the future."""

    exit_code = 10


class FetchError(AtbFastError, OSError):
    """Candles or sentiment that are not stored and cannot be fetched."""

    exit_code = 8


def message_and_code(error: AtbFastError | OSError) -> tuple[str, int]:
    """Return the one line that is said about an expected error, and the exit code."""
    if isinstance(error, AtbFastError):
        return str(error), error.exit_code
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or error
    return f"{where}{what}; see that it can be read and written", StorageError.exit_code
