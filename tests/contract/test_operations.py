"""docs/operations.md says what the code does, and deploy/monitoring asks for what there is.

Settings are found in the source, where it reads its environment; metrics by making every
registry and collector and looking at what they would tell; quoted messages, labels and
events among the source's strings. PromQL is read as far as names and labels go; promtool,
where it is, checks the rest and plays the alerts.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from controller.autoscaler_metrics import AutoscalerMetrics
from controller.cluster.federatedjob import CONDITIONS, Phase
from controller.loop_metrics import LoopMetrics, ReplicaMetrics
from controller.scheduler_metrics import SchedulerMetrics
from controller.view import JobView, NodeView
from controller.webhook_metrics import WebhookMetrics
from ebpf.agent.metrics import AgentCollector
from functions.aggregator.metrics import AggregatorMetrics
from functions.aggregator.stats import Stats
from functions.coordinator.metrics import Metrics as CoordinatorMetrics
from functions.coordinator.records import Phase as RoundPhase
from functions.coordinator.records import RoundRecord
from functions.coordinator.service import Coordinator
from functions.gateway.metrics import Metrics as GatewayMetrics
from lifl.dataplane.admin import AgentAdmin
from lifl.store import PoolUsage
from lifl.topology import Level, Plan, Role, Timing
from lifl.wire import DropReason

REPO = Path(__file__).resolve().parents[2]
DOC = (REPO / "docs/operations.md").read_text()
MONITORING = REPO / "deploy/monitoring"
PACKAGES = ("lifl", "functions", "controller", "ebpf")
SOURCES = {
    str(p.relative_to(REPO)): ast.parse(p.read_text())
    for package in PACKAGES
    for p in sorted((REPO / package).rglob("*.py"))
}

# -- reading the page ----------------------------------------------------------------


@cache
def sections() -> dict[str, str]:
    """Return the text below each heading, up to the next heading of any depth."""
    parts = re.split(r"^#+ (.+)$", DOC, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert len(found) == len(parts) // 2, "a heading stands twice"
    return found


def rows(section: str) -> list[list[str]]:
    """Return the cells of the first table of a section, without its head."""
    lines = [line for line in sections()[section].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def anchor(heading: str) -> str:
    """Return a heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def quoted(text: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def test_every_link_within_the_page_leads_somewhere() -> None:
    anchors = {anchor(heading) for heading in sections()}
    links = re.findall(r"\]\(#([^)]+)\)", DOC)
    assert links and set(links) <= anchors


def test_every_folder_that_is_applied_is_there() -> None:
    folders = re.findall(r"kubectl apply (?:--server-side )?-k ([\w/]+)", DOC)
    assert {"deploy/base", "deploy/openfaas", "knative", "k8s"} <= set(folders)
    for folder in folders:
        assert (REPO / folder / "kustomization.yaml").is_file(), folder
    for path in re.findall(r"`((?:deploy|tests|examples|scripts|k8s)/[\w./-]+)`", DOC):
        assert (REPO / path).exists(), path


# -- settings ------------------------------------------------------------------------

READERS = {"read", "secret", "password", "get"}
NAME = re.compile(r"LIFL_[A-Z0-9_]+")
OTHERS = {"PORT", "SERVING_POD", "HOSTNAME"}
"""Variables that functions read and that are not LIFL's own."""
REQUIRED = object()

SETTINGS: dict[str, dict[str, str]] = {
    "Agent: settings": {"ebpf/agent/settings.py": ""},
    "Every function: settings": {"lifl/settings.py": ""},
    "Gateway: settings": {
        "functions/gateway/settings.py": "",
        "functions/gateway/gunicorn_conf.py": "",
        "functions/gateway/app.py": "",
    },
    "Coordinator: settings": {
        "functions/coordinator/settings.py": "",
        "functions/coordinator/gunicorn_conf.py": "",
        "functions/coordinator/app.py": "",
    },
    "Aggregator: settings": {
        "functions/aggregator/settings.py": "",
        "functions/aggregator/gunicorn_conf.py": "",
        "functions/aggregator/app.py": "",
    },
    "Controller: settings": {
        "controller/__main__.py": "",
        "controller/settings.py": "PolicySettings",
    },
    "Controller of a cluster: settings": {"controller/cluster_settings.py": ""},
    "Controller of one machine: settings": {"controller/settings.py": "ControllerSettings"},
    "The command `lifl`: settings": {
        "lifl/platform/paths.py": "",
        "lifl/platform/doctor.py": "",
        "lifl/cli/access.py": "",
    },
    "For tests: settings": {"lifl/crash.py": ""},
}
"""Which table holds what which file reads (only in the class named, if one is)."""
IN_WORDS = {
    ("Agent: settings", "LIFL_AGENT_SOCKET"): "RUN_DIR/NODE/agent.sock",
    ("Agent: settings", "LIFL_ADMIN_SOCKET"): "RUN_DIR/NODE/admin.sock",
    ("Agent: settings", "LIFL_PIN_DIR"): "RUN_DIR/NODE/bpf",
    ("Coordinator: settings", "LIFL_STATE_URL"): "sqlite://HOME/state/lifl.db",
    ("Coordinator: settings", "LIFL_CHECKPOINT_DIR"): "HOME/state/checkpoints",
    ("Aggregator: settings", "LIFL_SUM_THREADS"): "processors, 8 at most",
    ("Controller: settings", "LIFL_NODE_LEAVES"): "2 × processors",
    ("Controller of a cluster: settings", "LIFL_IDENTITY_NAME"): "host name",
    ("Controller of a cluster: settings", "LIFL_PLATFORM_SECRET"): "required",
    ("The command `lifl`: settings", "LIFL_HOME"): "/var/lib/lifl as root, else ~/.lifl",
    ("The command `lifl`: settings", "LIFL_GATEWAY"): "the local platform's",
}
"""Defaults that depend on something, or are asked for later."""


class Reading(NamedTuple):
    """One place where a variable is read."""

    name: str
    default: ast.expr | None
    """None: it has to be set."""


def _readings(tree: ast.AST) -> Iterator[Reading]:
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        for keyword in call.keywords:
            if keyword.arg == "envvar" and isinstance(keyword.value, ast.Constant):
                yield Reading(keyword.value.value, ast.Constant(""))
        function = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        function = call.func.id if isinstance(call.func, ast.Name) else function
        at = 0 if function == "get" else 1
        if function not in READERS or len(call.args) <= at:
            continue
        name = call.args[at]
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            continue
        if not NAME.fullmatch(name.value) and name.value not in OTHERS:
            continue
        match function:
            case "read":
                yield Reading(name.value, call.args[3] if len(call.args) > 3 else None)
            case "get":
                yield Reading(name.value, call.args[1] if len(call.args) > 1 else ast.Constant(""))
            case _:
                yield Reading(name.value, ast.Constant(""))
                yield Reading(f"{name.value}_FILE", ast.Constant(""))


def read_in(file: str, class_name: str) -> list[Reading]:
    """Return what a file, or one class of it, reads."""
    tree: ast.AST = SOURCES[file]
    if class_name:
        (tree,) = (
            n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == class_name
        )
    return list(_readings(tree))


def default_of(file: str, reading: Reading) -> Any:
    """Return a default's value; REQUIRED if there is none."""
    if reading.default is None:
        return REQUIRED
    if isinstance(reading.default, ast.Constant):
        return reading.default.value
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    return eval(ast.unparse(reading.default), vars(module))


def same_default(value: Any, told: str) -> bool:
    """Say whether a table's cell means a default."""
    if value is REQUIRED:
        return told == "required"
    if value is None or value in ("", b"", ()):
        return told == "none"
    if isinstance(value, bool):
        return told == ("on" if value else "off")
    number, _, unit = told.partition(" ")
    if isinstance(value, int | float):
        factor = {"": 1, "GiB": 1 << 30}[unit]
        return float(number) * factor == float(value)
    return told == str(value)


@pytest.mark.parametrize("section", SETTINGS)
def test_a_table_has_every_setting_with_its_default(section: str) -> None:
    table = {cells[0].strip("`"): cells[1] for cells in rows(section)}
    assert len(table) == len(rows(section)), "a variable stands twice"
    read: dict[str, list[tuple[str, Reading]]] = {}
    for file, class_name in SETTINGS[section].items():
        for reading in read_in(file, class_name):
            read.setdefault(reading.name, []).append((file, reading))
    assert table.keys() == read.keys()
    for name, places in read.items():
        in_words = IN_WORDS.get((section, name))
        if in_words is not None:
            assert table[name] == in_words, name
            continue
        for file, reading in places:
            value = default_of(file, reading)
            assert same_default(value, table[name]), (name, file, value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (REQUIRED, "none"),
        ("", "required"),
        (True, "off"),
        (2.0, "3"),
        (1 << 30, "2 GiB"),
        ("a", "b"),
    ],
)
def test_another_default_is_told_apart(value: Any, told: str) -> None:
    assert not same_default(value, told)


def test_no_file_reads_a_setting_that_no_table_is_for() -> None:
    listed = {file for files in SETTINGS.values() for file in files}
    reading = {f for f, tree in SOURCES.items() if any(NAME.match(r.name) for r in _readings(tree))}
    assert reading == listed
    classes = {c for files in SETTINGS.values() for f, c in files.items() if c}
    for file in listed:
        everywhere = {r.name for r in read_in(file, "")}
        here = {c for c in classes if any(files.get(file) == c for files in SETTINGS.values())}
        assert everywhere == {r.name for c in here or {""} for r in read_in(file, c)}, file


def test_every_variable_that_is_named_anywhere_is_a_setting() -> None:
    known = {cells[0].strip("`") for section in SETTINGS for cells in rows(section)}
    injected = {
        node.value
        for node in ast.walk(SOURCES["controller/cluster/inject.py"])
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and NAME.fullmatch(node.value)
    }
    in_code = {
        node.value
        for tree in SOURCES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and NAME.fullmatch(node.value)
    }
    assert in_code <= known | injected | {"LIFL_BCC"}
    shell = {"LIFL_REGISTRY"}
    assert set(NAME.findall(DOC)) <= known | injected | shell


# -- metrics -------------------------------------------------------------------------

TARGET = {"job", "instance", "node", "pod", "namespace"}
"""Labels that scraping gives (podmonitors.yaml, scrape.yaml)."""
PLAN = Plan("j", 1, 1, Timing.EAGER, (Role("a", "n", Level.TOP, 1),), {})
METRICS = ("Agent", "Gateway", "Coordinator", "Aggregator", "Controller")


class Kind(NamedTuple):
    """A metric's type and its labels."""

    type: str
    labels: frozenset[str]


def _agent() -> Iterator[Metric]:
    counters = {f"{way}_{what}": 1 for way in ("tx", "rx") for what in ("messages", "bytes")}
    endpoint = {"domain": "j", "name": "a", "kind": "gateway", "endpoint": 1, "ready": True}
    events = {"registrations": 1}
    admin = SimpleNamespace(
        endpoints=lambda: [{**endpoint, "counters": {**counters, "last_arrival_ns": 1}}],
        pools=lambda: {"j": PoolUsage(1, 1, 0, 0, 0, 0, 0)},
        counters=lambda: {"drops": {"no_route": 0}, "events": events},
    )
    return AgentCollector(cast(AgentAdmin, admin)).collect()


def _gateway() -> Iterator[Metric]:
    metrics = GatewayMetrics(lambda: 0)
    metrics.uploads.labels("accepted").inc()
    return metrics.registry.collect()


def _coordinator() -> Iterator[Metric]:
    record = RoundRecord(1, 1, 1, RoundPhase.PLANNING, 1.0, 1)
    numbers = ("round", "version", "kept", "attempt", "goal", "accepted", "uploading", "lost")
    status = {"job": "j", "state": "running", "known_clients": 1, **dict.fromkeys(numbers, 1)}
    coordinator = SimpleNamespace(
        jobs=SimpleNamespace(
            statuses=lambda: [status],
            engines={"j": SimpleNamespace(registered=True, commit_seconds=1.0)},
            get=lambda _: SimpleNamespace(rounds=SimpleNamespace(record=record)),
        ),
        revisions=SimpleNamespace(waiting=0),
        nodes=SimpleNamespace(urls=dict),
    )
    metrics = CoordinatorMetrics(cast(Coordinator, coordinator))
    metrics.requests.labels("internal.claim", "201").observe(1.0)
    return metrics.registry.collect()


def _aggregator() -> Iterator[Metric]:
    return iter(AggregatorMetrics(Stats(), lambda: 0).collect())


def _controller() -> Iterator[Metric]:
    registry = CollectorRegistry()
    scheduler, autoscaler = SchedulerMetrics(registry), AutoscalerMetrics(registry)
    scheduler.bound("gateway")
    scheduler.refused("gateway")
    autoscaler.looked([("n", "d", 1, 1)], 1, 1)
    autoscaler.scaled("n", "d", "up")
    loop = LoopMetrics(registry)
    job = {"job": "j", "domain_uid": 1, "round": 1, "assignment": 1, "phase": "open"}
    job |= {"fan_in": 2, "timing": "eager", "expected": 1, "plan": PLAN.to_json()}
    loop.looked(1.0, [JobView.from_json(job)], [NodeView("n", "e")], 1.0)
    loop.acted("PutPlan", "done")
    ReplicaMetrics(registry, lambda: True).certificate("s", 1.0)
    WebhookMetrics(registry)
    return registry.collect()


EXPORTS: dict[str, Callable[[], Iterator[Metric]]] = {
    "Agent": _agent,
    "Gateway": _gateway,
    "Coordinator": _coordinator,
    "Aggregator": _aggregator,
    "Controller": _controller,
}


@cache
def exported(program: str) -> dict[str, Kind]:
    """Return the metrics of a program by the name they are documented with."""
    found = {}
    for family in EXPORTS[program]():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {k for s in family.samples for k in s.labels} - {"le"}
        found[name] = Kind(family.type, frozenset(labels))
    return found


@cache
def everything() -> dict[str, Kind]:
    """Return all metrics of all programs."""
    found: dict[str, Kind] = {}
    for program in METRICS:
        assert found.keys().isdisjoint(exported(program))
        found |= exported(program)
    return found


@pytest.mark.parametrize("program", METRICS)
def test_a_table_has_every_metric_with_type_and_labels(program: str) -> None:
    table = {
        cells[0].strip("`"): Kind(cells[1], frozenset(cells[2].replace(",", " ").split()))
        for cells in rows(program)
    }
    assert table == exported(program)


def test_no_metric_is_made_that_no_table_is_for() -> None:
    """A new class of metrics has to be made in EXPORTS."""
    made = set()
    for tree in SOURCES.values():
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call):
                continue
            for argument in call.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    made |= set(re.findall(r"\Alifl_[a-z0-9_]+\Z", argument.value))
    known = {*everything(), *(n.removesuffix("_total") for n in everything())}
    assert made <= known, made - known


def test_all_reasons_of_drops_are_explained() -> None:
    reasons = {r.name.lower() for r in DropReason if r is not DropReason.NONE}
    assert reasons <= set(quoted(sections()["Agent"]))


def test_every_metric_that_is_named_anywhere_is_there() -> None:
    named = set(re.findall(r"`(lifl_[a-z0-9_]+)[`{]", DOC))
    assert named - everything().keys() == set()


# -- PromQL --------------------------------------------------------------------------

FUNCTIONS = {
    "absent", "by", "count", "histogram_quantile", "increase", "max", "min", "on", "or", "and",
    "rate", "sum", "time", "vector",
}  # fmt: skip


def series_of(metric: str) -> dict[str, str]:
    """Return the names of a metric's series, and to which labels each adds."""
    if everything()[metric].type == "histogram":
        return {f"{metric}_bucket": "le", f"{metric}_sum": "", f"{metric}_count": ""}
    return {metric: ""}


@cache
def series() -> dict[str, frozenset[str]]:
    """Return all series that can be asked for, with their labels."""
    return {
        name: kind.labels | TARGET | ({more} if more else set())
        for metric, kind in everything().items()
        for name, more in series_of(metric).items()
    }


def problems(expression: str) -> list[str]:
    """Return what in a query names something that is not there."""
    found = []
    rest = re.sub(r"\[[^\]]*\]", "", expression)
    labels: set[str] = set()
    for name, matchers in re.findall(r"\b(lifl_\w+)\s*(\{[^}]*\})?", rest):
        if name not in series():
            found.append(f"{name} is no series")
            continue
        labels |= series()[name]
        used = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
        found += [f"{name} has no label {u}" for u in used if u not in series()[name]]
    rest = re.sub(r"\blifl_\w+\s*(\{[^}]*\})?", "", rest)
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", rest):
        wanted = {label.strip() for label in group.split(",") if label.strip()}
        found += [f"no series has the label {label}" for label in wanted - labels]
    rest = re.sub(r"\b(by|on)\s*\([^)]*\)", r"\1", rest)
    words = set(re.findall(r"\b[a-z_]\w*\b", rest)) - FUNCTIONS
    found += [f"{word} is nothing that is known here" for word in sorted(words)]
    if expression.count("(") != expression.count(")"):
        found.append("parentheses do not match")
    return found


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("lifl_job_rounds > 1", "lifl_job_rounds"),
        ('lifl_jobs{phase="open"}', "phase"),
        ("sum by (reason) (lifl_jobs)", "reason"),
        ("sun(lifl_jobs)", "sun"),
        ("sum(lifl_jobs", "parentheses"),
        ("rate(lifl_webhook_seconds[5m])", "lifl_webhook_seconds"),
    ],
)
def test_a_wrong_query_is_found_out(query: str, word: str) -> None:
    assert any(word in p for p in problems(query))


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    return list(group["rules"])


def queries() -> Iterator[tuple[str, str]]:
    """Yield where and what of every query of dashboard and alerts."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")
    for alert in alerts():
        yield alert["alert"], alert["expr"]


def test_every_query_asks_for_what_there_is() -> None:
    found = [(where, p) for where, query in queries() for p in problems(query)]
    assert not found


def test_the_dashboard_has_its_rows_and_no_two_panels_in_one_place() -> None:
    panels = dashboard()["panels"]
    wanted = ["Now", "Rounds and updates", "Aggregators and scaling", "Data plane", "Pools"]
    wanted += ["Gateway", "Controller", "Certificates"]
    assert [p["title"] for p in panels if p["type"] == "row"] == wanted
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24 and (x, y) not in taken, panel["title"]
                taken.add((x, y))
    assert len({p["id"] for p in panels}) == len(panels)
    for variable in dashboard()["templating"]["list"][1:]:
        metric, label = re.findall(r"label_values\((\w+), (\w+)\)", variable["definition"])[0]
        assert label in series()[metric] and label == variable["name"]


def test_legends_name_labels_that_the_query_keeps() -> None:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            groups = re.findall(r"\bby \(([^)]*)\)", target["expr"])
            kept = {label.strip() for group in groups for label in group.split(",")}
            assert used <= (kept if groups else TARGET), panel["title"]


# -- alerts --------------------------------------------------------------------------


def test_every_alert_has_its_section_and_no_section_is_left_over() -> None:
    names = [alert["alert"] for alert in alerts()]
    told = re.findall(r"^### (Lifl\w+)$", DOC, flags=re.MULTILINE)
    assert sorted(names) == sorted(told)
    for alert in alerts():
        notes = alert["annotations"]
        assert notes["runbook"] == f"docs/operations.md#{anchor(alert['alert'])}"
        assert notes.keys() == {"summary", "description", "runbook"}
        assert alert["labels"]["severity"] in {"critical", "warning"}
        text = sections()[alert["alert"]]
        assert "*Means*" in text and "*Do*" in text


def test_texts_of_alerts_name_labels_that_their_query_keeps() -> None:
    for alert in alerts():
        used = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
        groups = re.findall(r"\bby \(([^)]*)\)", alert["expr"])
        kept = {label.strip() for group in groups for label in group.split(",")}
        assert used <= (kept if groups else TARGET), alert["alert"]


def test_dashboard_and_rule_object_are_as_the_script_writes_them() -> None:
    script = runpy.run_path(str(REPO / "scripts/build-monitoring"))
    assert (MONITORING / "dashboard.json").read_text() == script["dashboard"]()
    assert (MONITORING / "prometheusrule.yaml").read_text() == script["rule"]()


def test_both_ways_to_scrape_give_the_same_labels() -> None:
    monitors = list(yaml.safe_load_all((MONITORING / "podmonitors.yaml").read_text()))
    (plain,) = yaml.safe_load((MONITORING / "scrape.yaml").read_text())["scrape_configs"]
    assert plain["honor_labels"] is True
    given = {c["target_label"] for c in plain["relabel_configs"] if "target_label" in c}
    assert given == TARGET - {"instance"}
    for monitor in monitors:
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["honorLabels"] is True
        assert "node" in {r.get("targetLabel") for r in endpoint["relabelings"]}


def test_the_kustomization_names_what_an_operator_takes() -> None:
    found = yaml.safe_load((MONITORING / "kustomization.yaml").read_text())
    assert found["resources"] == ["podmonitors.yaml", "prometheusrule.yaml"]
    (generated,) = found["configMapGenerator"]
    assert generated["files"] == ["dashboard.json"]
    used = {
        *found["resources"],
        "dashboard.json",
        "kustomization.yaml",
        "rules.yaml",
        "scrape.yaml",
    }
    assert {p.name for p in MONITORING.iterdir()} == used


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here")
def test_promtool_takes_the_rules_and_each_alert_fires_when_it_should() -> None:
    played = REPO / "tests/contract/monitoring/alerts.yaml"
    for what in (
        ["check", "rules", str(MONITORING / "rules.yaml")],
        ["test", "rules", str(played)],
    ):
        done = subprocess.run(["promtool", *what], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_played() -> None:
    played = (REPO / "tests/contract/monitoring/alerts.yaml").read_text()
    for alert in alerts():
        assert played.count(alert["alert"]) > 1, alert["alert"]


# -- labels, events, messages --------------------------------------------------------


@cache
def strings() -> tuple[str, ...]:
    """Return every text of the sources, docstrings apart, with … for what is put in."""
    found = []
    for tree in SOURCES.values():
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in documentation:
                continue
            if isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%(?:\.\d+)?[sdrfg]", "…", node.value))
    return tuple(found)


def is_said(message: str) -> bool:
    """Say whether some text of the sources has this in it; … stands for anything."""
    wanted = ".*".join(re.escape(part) for part in message.split("…"))
    return any(re.search(wanted, text, re.DOTALL) for text in strings())


def test_every_message_that_is_quoted_is_one_of_ours() -> None:
    tables = ("Installing and starting", "Pods without a node", "Functions and their agent")
    checked = 0
    for section in (*tables, "Jobs and clients"):
        for cells in rows(section):
            for message in quoted(cells[0]):
                if " " in message:
                    checked += 1
                    assert is_said(message.removeprefix("waiting for ")), message
    assert checked > 30
    for alert in alerts():
        for message in quoted(sections()[alert["alert"]]):
            if "…" in message:
                assert is_said(message.replace("lifl-controller", "…")), message
    assert not is_said("the moon is … and cannot be reached")


def test_labels_and_annotations_are_those_of_the_code() -> None:
    pattern = re.compile(r"lifl\.dev/[a-z]+(?:-[a-z]+)*")
    in_code = {s for s in strings() if pattern.fullmatch(s)}
    told = set(pattern.findall(sections()["Labels and annotations"]))
    assert in_code == told
    finalizer = {"lifl.dev/federatedjob"}
    assert set(pattern.findall(DOC)) <= told | finalizer


def test_events_and_conditions_are_those_of_the_code() -> None:
    text = sections()["Events and conditions"]
    first, second = text.split("A FederatedJob's `phase`")
    reasons = {
        reason
        for part in (first, second.partition("| reason |")[2])
        for line in part.splitlines()
        if line.startswith("| ")
        for reason in quoted(line.split("|")[2 if part is first else 1])
    }
    assert len(reasons) > 25
    assert all(reason in strings() for reason in reasons), reasons - set(strings())
    steps = {
        call.args[0].value
        for call in ast.walk(SOURCES["controller/submission.py"])
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in {"Waits", "GivesUp"}
        and isinstance(call.args[0], ast.Constant)
    }
    assert steps <= reasons
    assert set(CONDITIONS) <= set(quoted(second))
    assert all(str(phase) in second for phase in Phase)
