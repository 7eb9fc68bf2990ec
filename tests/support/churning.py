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
        symbol, model_type = template.parts[-3:-1]
        with publishing.reserve(registry, symbol, model_type, created) as draft:
            shutil.copytree(template, draft.directory, dirs_exist_ok=True)
            path = draft.directory / "metadata.json"
            metadata = json.loads(path.read_text())
            stamps = dict.fromkeys(("created_at", "training_date"), created.isoformat())
            path.write_text(json.dumps(metadata | stamps | {"version_id": draft.version}))
            draft.publish(live=number % 2 == 0)
    return len(releases.prune(registry, 2, dry_run=False))


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
