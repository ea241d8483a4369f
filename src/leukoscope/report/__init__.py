"""Pages: HTML and SVG from finished numbers."""

from typing import Any

import jinja2


def environment(**filters: Any) -> jinja2.Environment:
    """Return the environment of the page templates, with `thousands` and the page's own filters."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("leukoscope.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"thousands": "{:,}".format} | filters
    return made
