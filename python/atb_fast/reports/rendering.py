"""Turns the templates of the pages into HTML."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from atb_fast.reports.rows import Banner
from atb_fast.reports.style import LIGHT

SYNTHETIC = Banner(
    "note",
    "Synthetic sample market.",
    "Prices are simulated. No figure on this page says anything about a real market.",
)


#: A date, or a separator within a name. Browsers break lines at the hyphens of dates unless a CSS
#: class forbids it, but not at these separators.
_DATE_OR_SEPARATOR = re.compile(r"(\d{4}-\d\d-\d\d)|[_/](?=\w)")


def render(name: str, values: Mapping[str, Any]) -> str:
    """Return a template as `markupsafe.Markup`, for a page or for a part of one.

    Everything is escaped, except for charts and parts, which are `Markup`. The policy of a page
    lets only the script `page.js` run, by its hash.

    Args:
        name: File name of the template.
        values: What it shows. A name that is missing is an error.

    Raises:
        ImportError: Jinja2 is not installed.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup, escape

    folder = files("atb_fast.reports").joinpath("templates")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breaks"] = lambda value: Markup(  # noqa: S704 - `escape` has escaped it
        _DATE_OR_SEPARATOR.sub(
            lambda found: (
                f'<span class="date">{found[1]}</span>' if found[1] else f"{found[0]}<wbr>"
            ),
            str(escape(value)),
        )
    )
    script = folder.joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # The script is a file of this package, and the template has escaped all values.
    known = {"palette": LIGHT, "script": Markup(script), "script_hash": f"sha256-{digest}"}  # noqa: S704
    text = environment.get_template(name).render({**known, **values})
    return Markup(text)  # noqa: S704
