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
IMAGES = {name: f"functions/{name}" for name in FUNCTIONS}
IMAGES |= {"agent": "ebpf", "controller": "controller"}
PACKAGES = "scripts/image-packages"


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


def installed(repo: Path, path: Path, to: Path) -> Path:
    """Lay out below ``to`` what the stage "code" copies to /opt/lifl, and return that folder."""
    stage = ""
    for name, rest in steps(path):
        if name == "FROM":
            stage = rest.split()[-1]
        if name == "COPY" and stage == "code":
            *sources, target = rest.split()
            place = to / target.lstrip("/")
            for source in sources:
                for relative, data in tree(repo / source).items():
                    file = place / (Path(source).name if relative == "." else relative)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(data)
    return to / "opt/lifl"


def test_the_image_holds_its_own_part_and_the_library_alone(
    repo: Path, dockerfile: Path, image: str, tmp_path: Path
) -> None:
    found = tree(installed(repo, dockerfile, tmp_path))
    wanted = {f"lifl/{path}" for path in tree(repo / "lifl")} | {"LICENSE"}
    wanted |= {f"{IMAGES[image]}/{path}" for path in tree(dockerfile.parent)}
    if image in FUNCTIONS:
        wanted |= {"functions/__init__.py"}
    assert set(found) == wanted


# What starts


def test_starts_as_a_process_that_gets_its_signal(dockerfile: Path, image: str) -> None:
    python, *rest = command(dockerfile)
    assert python == "python3"
    assert last(dockerfile, "STOPSIGNAL") == ("SIGHUP" if image == "agent" else "SIGTERM")
    if image == "agent":
        assert rest == ["-m", "ebpf.agent"]
    elif image == "controller":
        assert rest == ["-m", "controller"]
        assert environment(dockerfile)["LIFL_PLATFORM"] == "kubernetes"
    else:
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


def gunicorn_setting(repo: Path, name: str, setting: str, **env: str) -> str:
    """Return what a function's gunicorn is told, in its image's environment."""
    code = f"from functions.{name} import gunicorn_conf; print(gunicorn_conf.{setting})"
    image = environment(repo / "functions" / name / "Dockerfile")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repo,
        env={"PATH": "/usr/bin:/bin"} | image | env,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_listens_on_the_port_that_the_platform_names(repo: Path, name: str) -> None:
    assert gunicorn_setting(repo, name, "bind", PORT="8012") == "0.0.0.0:8012"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_keeps_idle_connections_longer_than_the_proxies_before_it(repo: Path, name: str) -> None:
    assert float(gunicorn_setting(repo, name, "keepalive")) > 90, "Go's proxies keep them for 90 s"


_LOAD = """
import importlib, importlib.abc, importlib.metadata, sys

allowed = set(sys.argv[2].split(","))
owners = importlib.metadata.packages_distributions()

class OnlyTheImage(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        names = {d.lower().replace("_", "-").replace(".", "-") for d in owners.get(name, ())}
        if names - {"lifl"} and not names & allowed:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

# The installed project would be found too, and hide what the image lacks.
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in type(f).__module__.lower()
                    and "editable" not in getattr(f, "__module__", "").lower()]
sys.path[:] = [p for p in sys.path if p != sys.argv[3]]
sys.meta_path.insert(0, OnlyTheImage())
for module in sys.argv[1].split(","):
    importlib.import_module(module)
import lifl
print(lifl.__file__)
print("torch" in sys.modules)
"""


def test_the_image_has_all_that_its_program_imports(
    repo: Path, image: str, dockerfile: Path, tmp_path: Path
) -> None:
    """Import every module of the program where only the image's code and packages are found."""
    root = installed(repo, dockerfile, tmp_path)
    entry = {"app", "__main__"}  # importing these starts the program
    modules = [
        ".".join(p.relative_to(root).with_suffix("").parts)
        for p in sorted((root / IMAGES[image]).rglob("*.py"))
        if p.stem not in entry | {"__init__"}
    ]
    assert modules
    allowed = closure(requirements(repo, image))
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, ",".join(modules), ",".join(sorted(allowed)), str(repo)],
        cwd=root,
        env={"PATH": "/usr/bin:/bin", **environment(dockerfile), "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{root}/lifl/__init__.py\nFalse\n"


def test_the_entry_point_exists(dockerfile: Path, image: str, repo: Path) -> None:
    if image in FUNCTIONS:
        text = (dockerfile.parent / "app.py").read_text()
        assert re.search(r"^app\b.*=", text, re.M)
    else:
        module = command(dockerfile)[-1].replace(".", "/")
        assert (repo / module / "__main__.py").is_file()


# What is in it


def test_packages_are_the_project_s_own_and_pinned(repo: Path, image: str) -> None:
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    base = {without_extras(Requirement(line)) for line in project["dependencies"]}
    optional = {
        without_extras(Requirement(line))
        for line in (*extras["functions"], *extras["redis"], *extras["controller"])
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


def test_packages_are_a_layer_of_their_own(dockerfile: Path, repo: Path) -> None:
    """So that a change of code neither installs nor sends every package again."""
    found = steps(dockerfile)
    folder = dockerfile.parent.relative_to(repo)
    first = next(i for i, s in enumerate(found) if s.rest.endswith("AS packages"))
    last_ = next(i for i, s in enumerate(found) if s.rest.endswith("AS code"))
    stage = found[first:last_]
    assert [s.rest.split()[:2] for s in stage if s.name == "RUN"] == [
        [PACKAGES, f"{folder}/requirements.txt"]
    ]
    sources = {s.rest.split()[0] for s in stage if s.name == "COPY"}
    assert sources == {PACKAGES, "constraints.txt", f"{folder}/requirements.txt"}
    assert "-c constraints.txt" in (repo / PACKAGES).read_text()
    copies = [s.rest for s in found if s.name == "COPY" and s.rest.startswith("--from=")]
    assert copies.index("--from=packages /opt/packages /opt/packages") < copies.index(
        "--from=code /opt/lifl /opt/lifl"
    )
    assert environment(dockerfile)["PYTHONPATH"] == "/opt/lifl:/opt/packages"


def test_bases_are_arguments_with_public_images_as_default(dockerfile: Path, image: str) -> None:
    arguments = dict(rest.split("=", 1) for name, rest in steps(dockerfile) if name == "ARG")
    public = {"PYTHON_IMAGE": "python:3.12-slim", "BUILD_IMAGE": "python:3.12-slim"}
    if image == "agent":
        public["DEBIAN_IMAGE"] = "debian:12-slim"
    assert arguments == public
    bases = [rest.split()[0] for name, rest in steps(dockerfile) if name == "FROM"]
    assert set(bases) == {f"${{{name}}}" for name in public}
    assert bases[-1] == "${PYTHON_IMAGE}"


def test_nothing_is_compiled_when_it_starts(dockerfile: Path) -> None:
    """A root is read-only, so whatever is not compiled by then is compiled at every start."""
    found = steps(dockerfile)
    assert any(s.name == "RUN" and "compileall" in s.rest and "/opt/lifl" in s.rest for s in found)
    assert Step("COPY", "--from=packages /out /") in found
    assert environment(dockerfile)["PYTHONDONTWRITEBYTECODE"] == "1"


def test_nothing_runs_in_the_stage_that_is_kept(dockerfile: Path) -> None:
    """It needs no shell, and what is mounted for the build leaves no trace in it."""
    found = steps(dockerfile)
    start = max(i for i, s in enumerate(found) if s.name == "FROM")
    assert not [s for s in found[start:] if s.name == "RUN"]


def test_the_agent_needs_no_compiler_and_no_headers(repo: Path) -> None:
    path = repo / "ebpf/Dockerfile"
    found = environment(path)
    runs = " ".join(rest for name, rest in steps(path) if name == "RUN")
    assert f"scripts/bpf-object /out{found['LIFL_BPF_OBJECT']}" in runs
    assert f"/out{found['LD_LIBRARY_PATH']}" in runs
    text = path.read_text()
    assert "bpfcc" not in text
    last_stage = text[text.rindex("FROM ") :]
    assert "clang" not in last_stage


def test_one_blas_thread(dockerfile: Path) -> None:
    found = environment(dockerfile)
    assert found["OPENBLAS_NUM_THREADS"] == found["OMP_NUM_THREADS"] == "1"


def test_runs_as_the_user_that_the_manifests_name(
    dockerfile: Path,
    image: str,
    objects: dict[str, list[dict[str, Any]]],
    gateway_template: dict[str, Any],
) -> None:
    uid, gid = last(dockerfile, "USER").split(":")
    assert uid == gid
    assert (uid == "0") == (image == "agent")
    users = {
        c["securityContext"]["runAsUser"]
        for found in (*(o for folder in objects.values() for o in folder), gateway_template)
        if "template" in found.get("spec", {})
        for c in found["spec"]["template"]["spec"]["containers"]
        if f"/{image}:" in c["image"]
    }
    assert users == {int(uid)}


def test_redis_runs_as_the_user_that_its_manifest_names(
    repo: Path, objects: dict[str, list[dict[str, Any]]]
) -> None:
    path = repo / "deploy/redis/Dockerfile"
    assert copied(path) == []
    (found,) = (o for o in objects["openfaas"] if o["kind"] == "StatefulSet")
    (container,) = found["spec"]["template"]["spec"]["containers"]
    context = container["securityContext"]
    assert last(path, "USER") == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert command(path)[0] == container["command"][0]


# The script


def test_images_knows_every_dockerfile(repo: Path) -> None:
    text = (repo / "scripts/images").read_text()
    named = dict(re.findall(r"\[(\w+)\]=(\S+)", text))
    assert named == IMAGES | {"redis": "deploy/redis"}
    found = {
        path.parent.relative_to(repo).as_posix()
        for top in ("controller", "deploy", "ebpf", "functions")
        for path in (repo / top).rglob("Dockerfile")
    }
    assert found == set(named.values())
