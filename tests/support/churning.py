"""Changes a registry in a loop until stdin ends, then prints the number of changes.

`churning.py promote REGISTRY` moves `latest` from version to version. `churning.py prune REGISTRY`
publishes copies of a version, every other one live, and prunes them.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

from atb_fast.bundles import publishing, releases
from atb_fast.errors import StorageError
from atb_fast.serving.registry import versions


def promote(registry: Path, turn: int) -> int:
    """Make one of the versions live."""
    found = versions(registry)
    with suppress(StorageError):  # another process has pruned it
        publishing.promote(found[turn % len(found)])
    return 1


def prune(registry: Path, turn: int) -> int:
    """Publish four versions and delete the old ones."""
    template = versions(registry)[-1]
    for number in range(4):
        created = datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=10 * turn + number)
        publish(template, registry, created, live=number % 2 == 0)
    return len(releases.prune(registry, 2, dry_run=False))


def publish(template: Path, registry: Path, created: datetime, *, live: bool) -> None:
    """Publish a copy of a bundle as a version that was created at this time."""
    metadata = json.loads((template / "metadata.json").read_text())
    symbol, model_type = metadata["symbol"], metadata["model_type"]
    with publishing.reserve(registry, symbol, model_type, created) as draft:
        shutil.copytree(template, draft.directory, dirs_exist_ok=True)
        stamps = dict.fromkeys(("created_at", "training_date"), created.isoformat())
        changed = json.dumps(metadata | stamps | {"version_id": draft.version})
        (draft.directory / "metadata.json").write_text(changed)
        draft.publish(live=live)


def main() -> None:
    """Work until stdin ends."""
    job = {"promote": promote, "prune": prune}[sys.argv[1]]
    waiting = Thread(target=sys.stdin.read, daemon=True)
    waiting.start()
    done = 0
    for turn in itertools.count():
        done += job(Path(sys.argv[2]), turn)
        if not waiting.is_alive():
            break
    print(done)


if __name__ == "__main__":
    main()
