"""`python -m bench`: measure, print a table, write ``results/bench.json``.

Exit status 1 if a bar is missed, 2 if a benchmark could not be run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

from bench.figures import Figure

GROUPS = (
    "aggregate",
    "handoff",
    "ingest",
    "startup",
    "rounds",
    "memory",
    "slow",
    "planning",
    "reconcile",
    "ablation",
)


def main() -> int:
    """Run the groups that were asked for, all by default."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="default: all")
    parser.add_argument("--out", type=Path, default=Path("results/bench.json"))
    args = parser.parse_args()
    results: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    status = 0
    for group in args.groups or GROUPS:
        start = time.monotonic()
        print(f"== {group}", flush=True)
        try:
            figures = importlib.import_module(f"bench.{group}").run()
        except Exception as e:
            print(f"   could not be measured: {type(e).__name__}: {e}", flush=True)
            status = 2
            continue
        for figure in figures:
            results[figure.key] = figure.to_json()
            print(_row(figure), flush=True)
            if figure.passed is False:
                status = max(status, 1)
        print(f"   ({time.monotonic() - start:.0f} s)", flush=True)
    results["machine"] = {
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    return status


def _row(figure: Figure) -> str:
    verdict = {None: "", True: "ok", False: "MISSED"}[figure.passed]
    bar = "" if figure.bar is None else str(figure.bar)
    notes = "  ".join(f"{k}={v}" for k, v in figure.notes.items())
    return (
        f"   {figure.key:26} {figure.median:10.3f} {figure.unit:6}"
        f" [{min(figure.samples):.3f} .. {max(figure.samples):.3f}] n={len(figure.samples):<3}"
        f" {bar:8} {verdict:7} {notes}"
    )


if __name__ == "__main__":
    sys.exit(main())
