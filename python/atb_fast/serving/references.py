"""References to bundles, and the directories they name."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from atb_fast.config import OPTIONS, TIMEFRAMES, default_registry
from atb_fast.errors import BundleError, StorageError
from atb_fast.serving.registry import is_part, timeframe


@dataclass(frozen=True)
class Reference:
    """The name of a bundle, `SYMBOL:TIMEFRAME:TYPE[:VERSION]`.

    The symbol is not case-sensitive. Without a version, it names the live bundle, which `latest`
    points to.
    """

    symbol: str
    timeframe: str
    model_type: str
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return `text` as a reference.

        Raises:
            BundleError: `text` is not a reference.
        """
        parts = text.split(":")
        if len(parts) not in (3, 4) or not all(is_part(part) for part in parts):
            raise BundleError(
                f"{text!r} is neither a directory nor SYMBOL:TIMEFRAME:TYPE[:VERSION], for "
                "example BTCUSDT:1h:basic; check the path or the name"
            )
        if parts[1] not in TIMEFRAMES:
            raise BundleError(
                f"{text!r}: invalid timeframe {parts[1]}; expected one of {', '.join(TIMEFRAMES)}"
            )
        return cls(*parts)


def find(reference: str | Path, registry: str | Path | None = None) -> Path:
    """Return the directory of a bundle; `latest` is resolved to the version it points to.

    Args:
        reference: A directory, or `SYMBOL:TIMEFRAME:TYPE[:VERSION]`.
        registry: Directory of the registry. Default: `MODEL_REGISTRY_PATH`, else `src/ml/models`.

    Raises:
        ArgumentError: `registry` is not a path.
        BundleError: There is no such bundle, or a link points out of its directory.
        StorageError: The file system refuses the path.
    """
    if not isinstance(reference, str | Path):
        raise BundleError(f"got {reference!r}, expected a directory or SYMBOL:TIMEFRAME:TYPE")
    try:
        return _find(reference, registry)
    except StorageError:
        raise
    except OSError as error:  # for example, a name that is too long, or a directory of another user
        raise StorageError(f"{error.filename} cannot be read: {error.strerror}") from error


def _find(reference: str | Path, registry: str | Path | None) -> Path:
    if isinstance(reference, Path) or "/" in reference or (reference and Path(reference).is_dir()):
        directory = Path(reference)
        return follow(directory) if directory.is_symlink() else _directory(directory)
    wanted = Reference.parse(reference)
    root = OPTIONS["registry"].check(registry) if registry is not None else default_registry()
    home = home_of(wanted, root)
    if home.is_symlink() or home.parent.is_symlink():
        raise BundleError(f"{home}: found a link, expected a directory")
    if wanted.version:
        found = _directory(home / wanted.version)
    else:
        if not (home / "latest").is_symlink():
            raise BundleError(
                f"no bundle {reference}: {home / 'latest'} does not exist; to list the bundles, "
                f"run atb-fast models ls --registry {root}"
            )
        found = follow(home / "latest")
    found_timeframe = timeframe(found)
    if found_timeframe != wanted.timeframe:
        raise BundleError(
            f"no bundle {reference}: {found} has the timeframe {found_timeframe}; ask for that "
            "timeframe, or add the version you want"
        )
    return found


def home_of(reference: Reference, registry: Path) -> Path:
    """Return the directory of all versions of a symbol and type.

    The symbol is not case-sensitive. If directories differ in case only, the exact name wins.
    """
    symbol = reference.symbol
    if not (registry / symbol).exists():
        with suppress(OSError):
            names = sorted(path.name for path in registry.iterdir())
            symbol = next((name for name in names if name.upper() == symbol.upper()), symbol)
    return registry / symbol / reference.model_type


def follow(link: Path) -> Path:
    """Return the version that `link` points to. It must be in the same directory.

    Raises:
        BundleError: The link points elsewhere.
    """
    target = str(link.readlink())
    found = link.parent / target
    if not is_part(target) or found.is_symlink() or not found.is_dir():
        raise BundleError(
            f"{link}: points to {target!r}, expected the name of a version in {link.parent}; to "
            "replace the link, run atb-fast models promote"
        )
    return found


def _directory(path: Path) -> Path:
    if path.is_symlink():
        raise BundleError(f"{path}: found a link, expected a directory")
    if not path.is_dir():
        problem = "this is a file; pass its directory"
        if not path.exists():
            problem = "no such directory; check the path, or list the bundles of a registry with "
            problem += "atb-fast models ls --registry REGISTRY"
        raise BundleError(f"no bundle in {path}: {problem}")
    return path
