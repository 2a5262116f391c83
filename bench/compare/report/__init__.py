"""What people see of a comparison: Markdown, and one HTML page that needs nothing else.

Why: a run is of use when its point is seen in ten seconds and its method found in a minute. These
modules read what the runner kept (the object in ``rounds.json``), so that a report can be
made again from files. They must not measure, nor know any side.
"""

from __future__ import annotations

from bench.compare.report.against import compare, load
from bench.compare.report.page import write

__all__ = ["compare", "load", "write"]
