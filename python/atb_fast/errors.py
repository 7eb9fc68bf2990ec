"""The errors that atb-fast raises on purpose, each with its exit code."""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Iterator, Sequence


class AtbFastError(Exception):
    """Base class of every error that atb-fast raises on purpose.

    The message says what was received, what was expected, and how to fix it.
    """

    exit_code = 1
    meaning = "an internal error, or not enough memory"

    def __str__(self) -> str:
        """Return the message; see `printable`."""
        return printable(super().__str__())


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


class ExpressionError(ArgumentError):
    """An invalid expression.

    For an expression given as text, the first line of the message says what is wrong and where;
    two more lines show the place.

    Attributes:
        position: Index of the character of the text that the message is about; None for
            expressions built in Python.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


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
    """The registry, the cache directory or an MLflow server cannot be used.

    Also raised if stored data that is needed is damaged. `data verify` and `data repair` find and
    replace damaged data. What `data verify` finds is a `DataError`.
    """

    exit_code = 6
    meaning = (
        "the registry, the cache directory or an MLflow server cannot be used, or stored data is "
        "damaged"
    )


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


class InSampleWarning(UserWarning):
    """Predictions are in sample: the bundle was fitted or selected on these bars."""


#: Exit code of the command line after Ctrl-C, SIGTERM or SIGHUP.
INTERRUPTED = 130
#: Exit code of the command line if the program that reads its output has exited; shells report the
#: same code for SIGPIPE.
PIPE_CLOSED = 141

#: Address space that training needs, in bytes; TensorFlow maps 2 GB of libraries.
_NEEDED_SPACE = 4 << 30

_KINDS: list[type[AtbFastError]] = [AtbFastError, *AtbFastError.__subclasses__()]
#: What each exit code means.
EXIT_CODES = {
    0: "success",
    **{kind.exit_code: kind.meaning for kind in _KINDS},
    INTERRUPTED: "interrupted",
    PIPE_CLOSED: "the program that reads the output has exited",
}


def printable(text: str) -> str:
    """Return `text` with control characters escaped, except line ends and tabs.

    Names and texts in files can contain them, and a terminal would obey them.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, for example `1 epoch` or `2,000 epochs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and the exceptions that led to it, newest first."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def lacks_memory(error: BaseException) -> bool:
    """Return whether `error`, which is unexpected, means that there is not enough memory.

    Native code reports this in many ways, some of which look like another error. So if the address
    space is limited to less than what training needs, every error counts.
    """
    return _address_space() < _NEEDED_SPACE or any(
        isinstance(each, MemoryError)
        or type(each).__name__ == "ResourceExhaustedError"  # of TensorFlow
        or (isinstance(each, OSError) and each.errno == errno.ENOMEM)
        or (isinstance(each, ImportError) and "failed to map segment" in str(each))
        for each in chain(error)
    )


def _address_space() -> float:
    """Return the limit on the address space in bytes; 0 if memory is too low to read it."""
    if sys.platform == "win32":
        return math.inf
    try:
        import resource
    except (ImportError, MemoryError):
        return 0.0
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return math.inf if limit == resource.RLIM_INFINITY else limit


def remedy(error: OSError, otherwise: str = "check that it can be read and written") -> str:
    """Return how to fix an error of the operating system, for messages.

    Args:
        error: The error.
        otherwise: How to fix an error other than a lack of space.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some disk space"
    if error.errno == errno.EFBIG:
        return "raise the limit for the size of a file (ulimit -f)"
    return otherwise


def message_and_code(error: BaseException) -> tuple[str, int] | None:
    """Return the one-line message for an expected error, and its exit code; None for others."""
    if isinstance(error, AtbFastError):
        return str(error), error.exit_code
    ordinary = isinstance(error, OSError) and error.errno != errno.ENOMEM
    if not ordinary and lacks_memory(error):
        limit = _address_space()
        limited = f" (ulimit -v {limit / 1024:.0f})" if 0 < limit < math.inf else ""
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        return (
            f"not enough memory{limited}: {why}; free some memory, raise the limit, or use a "
            "shorter range, a smaller --batch-size or fewer --jobs",
            AtbFastError.exit_code,
        )
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        what = error.strerror or error
        message = f"{where}{what}; {remedy(error)}"
        return printable(message), StorageError.exit_code
    return None
