"""Changes bundles as if they had been published like that."""

from __future__ import annotations

import hashlib
from pathlib import Path


def reseal(bundle: Path) -> None:
    """Write SHA256SUMS again, for a bundle whose files a test has changed."""
    paths = sorted(path for path in bundle.iterdir() if path.name != "SHA256SUMS")
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in paths
        if path.is_file()
    ]
    (bundle / "SHA256SUMS").write_text("".join(lines))
