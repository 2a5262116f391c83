"""The page and the Markdown: whole, self-contained, and saying the point first."""

from __future__ import annotations

import copy
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.compare import report

VOID = {"meta", "br", "link", "input"}


class Tree(HTMLParser):
    """Finds tags that are not closed, what is fetched, and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.captions = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.captions += tag == "figcaption"
        self.ids += [v for k, v in attrs if k == "id" and v]
        links = [given.get(k) or "" for k in ("src", "href", "xlink:href")]
        self.fetched += [v for v in links if v and not v.startswith("#")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(pristine: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report")
    report.write(copy.deepcopy(pristine), path, trainings=pristine["trainings"])
    return path


def test_the_page_needs_nothing_else(written: Path) -> None:
    tree = Tree()
    text = (written / "index.html").read_text()
    tree.feed(text)
    assert tree.open == []
    assert tree.fetched == []
    assert len(tree.ids) == len(set(tree.ids))
    assert "prefers-color-scheme" in text
    assert "currentColor" in text
    assert "#010203" not in text


def test_the_point_comes_first(written: Path) -> None:
    text = (written / "index.html").read_text()
    point = (
        "A round of LIFL (8 × ResNet-18 (45 MB)) is 2.0× as fast as an always-on server and "
        "5.0× as fast as vanilla serverless"
    )
    assert point in text
    assert text.index(point) < text.index("<svg")


def test_every_plot_says_what_was_run_and_the_noise(written: Path) -> None:
    text = (written / "index.html").read_text()
    plots = [
        "Time to the global model",
        "CPU for one update",
        "Aggregators started for a round",
        "Memory over time",
        "Ablation: what each policy buys",
        "Ablation: what the data plane buys",
        "Time to accuracy",
    ]
    tree = Tree()
    tree.feed(text)
    assert tree.captions == len(plots)
    for plot in plots:
        after = text[text.index(f"<h2>{plot}</h2>") :]
        caption = after[after.index("<figcaption>") : after.index("</figcaption>")]
        assert "rounds a side" in caption
        if plot not in ("Memory over time", "Time to accuracy"):
            assert "differ by 54 %" in caption


def test_other_loads_come_after_the_round_that_the_head_speaks_of(
    run: dict[str, Any], tmp_path: Path
) -> None:
    more = copy.deepcopy(run["workloads"][0])
    run["workloads"].append(more | {"name": "burst-20x45mb", "clients": 20})
    for played in run["workloads"][0]["sides"]["serverful"]["rounds"]:
        played["created"] = 0
    report.write(run, tmp_path, trainings=run["trainings"])
    text = (tmp_path / "index.html").read_text()
    heads = [f"<h2>Time to the global model{more}</h2>" for more in ("", ", other loads")]
    first, other = (text[text.index(h) :].partition("</figure>")[0] for h in heads)
    assert text.index(heads[0]) < text.index("<h2>Memory over time</h2>") < text.index(heads[1])
    assert "burst, 20" in other
    assert "burst, 20" not in first
    started = text[text.index("<h2>Aggregators started") :].partition("</figure>")[0]
    assert started.count("always-on gRPC server") == 2  # not in the first of three workloads
    assert "Sides that keep the same processes" in started


def test_a_void_figures_reason_is_not_in_the_way(run: dict[str, Any], tmp_path: Path) -> None:
    reference = {"path": "a hop", "measured": 70.0, "published": 100.0, "holds": False}
    run["workloads"][0]["sides"]["vanilla"]["references"] = [reference]
    report.write(run, tmp_path)
    text = (tmp_path / "index.html").read_text()
    cards = text[text.index('<div class="cards">') : text.index("<figure>")]
    assert "void, see Bars" in cards
    assert "70 MB/s" not in cards
    assert "70 MB/s on a hop" in text


def test_strange_names_are_escaped(written: Path) -> None:
    text = (written / "index.html").read_text()
    assert "A &lt;CPU&gt;" in text
    assert "A <CPU>" not in text


def test_markdown_has_a_table_a_workload(written: Path) -> None:
    lines = (written / "report.md").read_text().splitlines()
    assert lines[0] == "# LIFL side by side"
    assert "## burst-8x45mb: ResNet-18 (45 MB)" in lines
    assert "## Bars" in lines
    for i, line in enumerate(lines):
        if line.startswith("| ---") or line.startswith("|---"):
            assert line.count("|") == lines[i - 1].count("|")


def test_the_summary_is_written(written: Path) -> None:
    found = json.loads((written / "summary.json").read_text())
    assert found["round_serverful_over_lifl"]["passed"] is True


def test_a_run_without_anything_still_has_a_page(tmp_path: Path, run: dict[str, Any]) -> None:
    run |= {"workloads": [], "trainings": {}, "lost": {}}
    report.write(run, tmp_path)
    tree = Tree()
    tree.feed((tmp_path / "index.html").read_text())
    assert tree.open == []
    assert tree.captions == 0


def test_an_earlier_run_is_shown_beside_it(tmp_path: Path, run: dict[str, Any]) -> None:
    report.write(run, tmp_path, against=run)
    assert "Against the earlier run" in (tmp_path / "index.html").read_text()
    assert "## Against the earlier run" in (tmp_path / "report.md").read_text()
