"""Every image can be built from both contexts, starts what exists, and carries no more.

Context one is the repository's root. Context two is what faas-cli assembles for
``lang: dockerfile``; the rules are those of ``CreateBuildContext`` in builder/builder.go
of openfaas/go-sdk v0.3.0.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FUNCTIONS = ("aggregator", "coordinator", "gateway")
IMAGES = {name: f"functions/{name}" for name in FUNCTIONS} | {"agent": "ebpf"}


class Step(NamedTuple):
    """One instruction of a Dockerfile."""

    name: str
    rest: str


def steps(path: Path) -> list[Step]:
    """Return the instructions, continued lines joined and comments left out."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    found = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [Step(name, rest) for name, rest in found]


def copied(path: Path) -> list[str]:
    """Return what a Dockerfile copies out of its build context."""
    return [
        source
        for name, rest in steps(path)
        if name == "COPY" and not rest.startswith("--from=")
        for source in rest.split()[:-1]
    ]


def last(path: Path, name: str) -> str:
    """Return the argument of the instruction that counts."""
    return [rest for found, rest in steps(path) if found == name][-1]


def command(path: Path) -> list[str]:
    """Return CMD, which must be in exec form for the process to get signals."""
    found: list[str] = json.loads(last(path, "CMD"))
    return found


def environment(path: Path) -> dict[str, str]:
    """Return the variables of the last stage."""
    return dict(pair.split("=", 1) for pair in last(path, "ENV").split())


def faas_context(repo: Path, stack: dict[str, Any], name: str, to: Path) -> Path:
    """Assemble the build context of one function as faas-cli does."""
    context = to / "build" / name
    ignore = shutil.ignore_patterns("__pycache__")
    for source in (repo / stack["functions"][name]["handler"]).iterdir():
        if source.name in {"build", "template", "__pycache__"}:
            continue
        if source.is_dir():
            shutil.copytree(source, context / source.name, ignore=ignore)
        else:
            context.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, context / source.name)
    for extra in stack["configuration"]["copy"]:
        source, target = repo / extra, context / extra
        assert source.resolve().is_relative_to(repo)
        assert source != repo
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
    return context


def tree(path: Path) -> dict[str, bytes]:
    """Return the files at or below ``path``."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(p.relative_to(path)): p.read_bytes() for p in files if "__pycache__" not in p.parts}


def requirements(repo: Path, image: str) -> list[Requirement]:
    """Return the packages of an image."""
    lines = (repo / IMAGES[image] / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def closure(found: list[Requirement]) -> set[str]:
    """Return the names of these packages and of all that they need."""
    done: set[tuple[str, str]] = set()
    queue = [(r, extra) for r in found for extra in ("", *r.extras)]
    while queue:
        requirement, extra = queue.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in done:
            continue
        done.add((name, extra))
        for needed in map(Requirement, metadata.requires(name) or ()):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                queue += [(needed, e) for e in ("", *needed.extras)]
    return {name for name, _ in done}


def without_extras(requirement: Requirement) -> tuple[str, str]:
    """Return name and version; which extras an image needs, its imports show."""
    return canonicalize_name(requirement.name), str(requirement.specifier)


@pytest.fixture(params=sorted(IMAGES))
def image(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def dockerfile(repo: Path, image: str) -> Path:
    return repo / IMAGES[image] / "Dockerfile"


# Both build contexts


def test_the_repository_has_what_is_copied(repo: Path, dockerfile: Path) -> None:
    for source in copied(dockerfile):
        assert (repo / source).exists(), source


def test_dockerignore_lets_through_what_is_copied_and_nothing_else(repo: Path) -> None:
    first, *rest = [
        line
        for line in (repo / ".dockerignore").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert first == "*"
    allowed = {line[1:] for line in rest if line.startswith("!")}
    assert set(rest) - {f"!{name}" for name in allowed} == {"**/__pycache__"}
    used = {s.split("/")[0] for f in IMAGES.values() for s in copied(repo / f / "Dockerfile")}
    assert allowed == used


@pytest.mark.parametrize("name", FUNCTIONS)
def test_faas_cli_assembles_what_is_copied(
    repo: Path, stack: dict[str, Any], tmp_path: Path, name: str
) -> None:
    context = faas_context(repo, stack, f"lifl-{name}", tmp_path)
    assert (context / "Dockerfile").read_bytes() == (
        repo / "functions" / name / "Dockerfile"
    ).read_bytes()
    assert (context / ".dockerignore").is_file()
    for source in copied(repo / "functions" / name / "Dockerfile"):
        assert tree(context / source) == tree(repo / source), source


def test_faas_cli_copies_no_more_than_the_images_need(repo: Path, stack: dict[str, Any]) -> None:
    used = {s.split("/")[0] for n in FUNCTIONS for s in copied(repo / f"functions/{n}/Dockerfile")}
    assert set(stack["configuration"]["copy"]) == used | {".dockerignore"}


@pytest.mark.parametrize("image", ["gateway", "agent"], ids=["functions", "agent"])
def test_the_project_installs_whole_from_what_is_copied(
    repo: Path, tmp_path: Path, image: str
) -> None:
    """The step of the Dockerfile that runs pip on the project, with the files it has there."""
    source, target = tmp_path / "src", tmp_path / "install"
    for name in copied(repo / IMAGES[image] / "Dockerfile"):
        for path, data in tree(repo / name).items():
            file = source / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, f"--target={target}", "."], cwd=source, check=True, timeout=120)
    installed = set(tree(target))
    package = "ebpf" if image == "agent" else "functions"
    wanted = {
        f"{top}/{path}"
        for top in ("lifl", package)
        for path in tree(repo / top)
        if Path(path).name not in {"Dockerfile", "requirements.txt"}
        and not (top == "ebpf" and path.endswith(".yaml"))
    }
    assert wanted - installed == set()
    assert not {f.split("/")[0] for f in installed} & {"tests", "bench", "controller", "examples"}


# What starts


def test_starts_as_a_process_that_gets_its_signal(dockerfile: Path, image: str) -> None:
    signal = last(dockerfile, "STOPSIGNAL")
    python, *rest = command(dockerfile)
    if image == "agent":
        assert signal == "SIGHUP"
        assert (python, rest) == ("/opt/lifl/bin/python", ["-m", "ebpf.agent"])
    else:
        assert signal == "SIGTERM"
        assert python == "python"
        assert rest[:2] == ["-m", "gunicorn"]
        assert environment(dockerfile)["PORT"] == "8080"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_starts_as_the_local_platform_starts_it(repo: Path, name: str) -> None:
    assert command(repo / "functions" / name / "Dockerfile")[1:] == [
        "-m",
        "gunicorn",
        "-c",
        f"python:functions.{name}.gunicorn_conf",
        f"functions.{name}.app:app",
    ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_listens_on_the_port_that_the_platform_names(repo: Path, name: str) -> None:
    code = f"from functions.{name} import gunicorn_conf; print(gunicorn_conf.bind)"
    env = {"PATH": "/usr/bin:/bin", **environment(repo / "functions" / name / "Dockerfile")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repo,
        env=env | {"PORT": "8012"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "0.0.0.0:8012\n"


_LOAD = """
import importlib, importlib.abc, importlib.metadata, sys

allowed = set(sys.argv[2].split(","))
owners = importlib.metadata.packages_distributions()

class OnlyTheImage(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        names = {d.lower().replace("_", "-").replace(".", "-") for d in owners.get(name, ())}
        if names and not names & allowed:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

sys.meta_path.insert(0, OnlyTheImage())
for module in sys.argv[1].split(","):
    importlib.import_module(module)
print("torch" in sys.modules)
"""


def test_the_image_has_all_that_its_program_imports(repo: Path, image: str) -> None:
    """Import every module of the program where only the image's packages can be found."""
    folder = repo / IMAGES[image]
    entry = {"app", "__main__"}  # importing these starts the program
    modules = [
        ".".join(p.relative_to(repo).with_suffix("").parts)
        for p in sorted(folder.rglob("*.py"))
        if p.stem not in entry | {"__init__"}
    ]
    assert modules
    allowed = closure(requirements(repo, image)) | {"lifl"}
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, ",".join(modules), ",".join(sorted(allowed))],
        cwd=repo,
        env={"PATH": "/usr/bin:/bin", **environment(folder / "Dockerfile")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"


def test_the_entry_point_exists(dockerfile: Path, image: str, repo: Path) -> None:
    if image == "agent":
        assert (repo / "ebpf/agent/__main__.py").is_file()
    else:
        text = (dockerfile.parent / "app.py").read_text()
        assert re.search(r"^app\b.*=", text, re.M)


# What is in it


def test_packages_are_the_project_s_own_and_pinned(repo: Path, image: str) -> None:
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    base = {without_extras(Requirement(line)) for line in project["dependencies"]}
    optional = {
        without_extras(Requirement(line)) for line in (*extras["functions"], *extras["redis"])
    }
    found = {without_extras(r) for r in requirements(repo, image)}
    assert base <= found <= base | optional
    pinned = {
        canonicalize_name(line.split("==")[0])
        for line in (repo / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    assert closure(requirements(repo, image)) <= pinned


def test_no_image_carries_torch(repo: Path, image: str) -> None:
    assert not closure(requirements(repo, image)) & {"torch", "scikit-learn", "matplotlib"}


def test_packages_come_before_the_code(dockerfile: Path, repo: Path) -> None:
    """So that a change of code does not install every package again."""
    names = [(s.name, s.rest) for s in steps(dockerfile)]
    install = next(i for i, (n, r) in enumerate(names) if n == "RUN" and "-r " in r)
    code = next(i for i, (n, r) in enumerate(names) if n == "COPY" and r.startswith("lifl "))
    assert install < code
    folder = dockerfile.parent.relative_to(repo)
    assert "-c constraints.txt" in names[install][1]
    assert f"-r {folder}/requirements.txt" in names[install][1]


def test_bases(dockerfile: Path, image: str) -> None:
    bases = {rest.split()[0] for name, rest in steps(dockerfile) if name == "FROM"}
    assert bases == ({"debian:12-slim"} if image == "agent" else {"python:3.12-slim"})


def test_one_blas_thread(dockerfile: Path) -> None:
    found = environment(dockerfile)
    assert found["OPENBLAS_NUM_THREADS"] == found["OMP_NUM_THREADS"] == "1"


def test_runs_as_the_user_that_the_manifests_name(
    dockerfile: Path, image: str, objects: dict[str, list[dict[str, Any]]]
) -> None:
    uid, gid = last(dockerfile, "USER").split(":")
    assert uid == gid
    assert (uid == "0") == (image == "agent")
    users = {
        c["securityContext"]["runAsUser"]
        for found in (*objects["knative"], *objects["ebpf"])
        if "template" in found.get("spec", {})
        for c in found["spec"]["template"]["spec"]["containers"]
        if f"/{image}:" in c["image"]
    }
    assert users == {int(uid)}
