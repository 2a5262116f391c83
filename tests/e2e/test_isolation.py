"""A function of one job gets nowhere with another job: not its memory, its routes or its doors.

Two jobs, ``alpha`` and ``beta``, run on one platform with an update of each in their sums. The
attacker has the identity of alpha's functions. Whatever it does, beta's round must close with
exactly its clients' mean, served by the processes that served it before.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from lifl import auth
from lifl.naming import admin_socket, agent_socket
from lifl.platform import doctor
from lifl.store import Pool, SlotRef
from lifl.wire import ROUTE, WIRE_VERSION, DropReason, Opcode, RouteType

from .kit import Job, Platform, kill_tree, platform, wait_for
from .users import NOBODY, Attacker, attacker, python_for_all, run_as

ROOT = os.geteuid() == 0
CLIENTS = 3
DENIED = {"EPERM", "EACCES"}
NO_RIGHTS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")
BPF_BY_NUMBER = {11, 12, 13, 14}
"""bpf(2)'s PROG_GET_NEXT_ID, MAP_GET_NEXT_ID, PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID."""


@dataclass
class Scene:
    """A platform with two jobs; ``uid`` is who alpha's functions run as."""

    on: Platform
    python: Path
    alpha: Job
    beta: Job

    @property
    def uid(self) -> int:
        return int(aggregators(self.on, "alpha")[0]["uid"])

    @property
    def socket(self) -> str:
        """The agent's registration socket."""
        return str(agent_socket(self.on.paths.run, "node-0"))

    def attacker(self) -> contextlib.AbstractContextManager[Attacker]:
        """Run an attacker with the identity of alpha's functions."""
        return attacker(self.uid, self.python)


def begin(job: Job) -> int:
    """Open a round and have c0's update added to a sum."""
    number = int(job.open_round(job.status()["version"])["round"])
    job.deliver(0, number)
    wait_for(lambda: job.platform.usage(job.name).taken > 0, "the update to be in a sum")
    return number


def endpoints(on: Platform, job: str) -> dict[str, dict[str, Any]]:
    """Return a job's endpoints by name."""
    with on.admin() as admin:
        return {e["name"]: e for e in admin.endpoints() if e["domain"] == job}


def aggregators(on: Platform, job: str) -> list[dict[str, Any]]:
    return [e for e in endpoints(on, job).values() if e["kind"] == "aggregator"]


def traffic(on: Platform, job: str) -> dict[str, Any]:
    """Return what a job's endpoints sent and got."""
    return {name: e["counters"] for name, e in endpoints(on, job).items()}


def drops(on: Platform) -> dict[str, int]:
    with on.admin() as admin:
        return dict(admin.counters()["drops"])


def standing(on: Platform, job: str) -> dict[str, int]:
    """Return the processes that serve a job."""
    return {name: e["pid"] for name, e in endpoints(on, job).items()}


@contextlib.contextmanager
def unharmed(scene: Scene, job: Job) -> Iterator[int]:
    """Have a round of ``job`` under way; then it must end as if nothing had happened."""
    number = begin(job)
    before = standing(scene.on, job.name)
    agent = scene.on.process("agent-0")
    yield number
    job.deliver_all(number)
    job.check(number)
    assert standing(scene.on, job.name) == before
    assert scene.on.process("agent-0") == agent


def pool_fd(pid: int, job: str) -> int:
    """Return the number of a job's pool in a process, as only root can see it; 3 if it has none."""
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(entry.readlink()).startswith(f"/memfd:lifl-{job}"):
                    return int(entry.name)
    return 3


def victims(pids: dict[str, int], job: str) -> list[dict[str, Any]]:
    return [{"name": n, "pid": p, "fd": pool_fd(p, job)} for n, p in pids.items()]


def none_gave_way(met: dict[str, dict[str, str]]) -> None:
    """Check that every attempt on every process was denied."""
    assert met
    open_doors = {
        f"{name}: {attempt}": how
        for name, attempts in met.items()
        for attempt, how in attempts.items()
        if how not in DENIED
    }
    assert not open_doors


@pytest.fixture(scope="module")
def python() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="lifl-python-", dir="/tmp"))
    try:
        found = python_for_all(folder)
        if found is None:
            pytest.skip("other users cannot run any interpreter that has these libraries")
        yield found
    finally:
        shutil.rmtree(folder)


def two_jobs(on: Platform, python: Path) -> Scene:
    scene = Scene(on, python, *(on.submit(name, clients=CLIENTS) for name in ("alpha", "beta")))
    for job in (scene.alpha, scene.beta):
        job.open_round()
    wait_for(lambda: all(aggregators(on, j) for j in ("alpha", "beta")), "aggregators")
    return scene


# -- each job has a user of its own ---------------------------------------------------------


@pytest.fixture(scope="module", params=[pytest.param("ebpf", marks=pytest.mark.ebpf), "socket"])
def scene(request: pytest.FixtureRequest, python: Path) -> Iterator[Scene]:
    if not ROOT:
        pytest.skip("only root can run each job's functions as a user of their own")
    with platform(dataplane=request.param, python=python) as on:
        yield two_jobs(on, python)


class TestOtherUsers:
    def test_each_job_has_its_own_user(self, scene: Scene) -> None:
        users = [{a["uid"] for a in aggregators(scene.on, job)} for job in ("alpha", "beta")]
        assert [len(u) for u in users] == [1, 1]
        assert len({0, *users[0], *users[1]}) == 3
        for job in ("alpha", "beta"):
            for a in aggregators(scene.on, job):
                worker = psutil.Process(a["pid"])
                assert {*worker.uids(), *worker.parent().uids()} == {a["uid"]}  # type: ignore[union-attr]
                status = Path(f"/proc/{a['pid']}/status").read_text()
                assert "CapEff:\t0000000000000000" in status
                assert "CapBnd:" in status

    def test_no_process_can_be_entered(self, scene: Scene) -> None:
        own = {a["pid"] for a in aggregators(scene.on, "alpha")}
        own |= {psutil.Process(pid).ppid() for pid in own}
        pids = {f"{p.pid}": p.pid for p in scene.on.processes() if p.pid not in own}
        with unharmed(scene, scene.beta), scene.attacker() as alpha:
            none_gave_way(alpha.ask("processes", victims=victims(pids, "beta")))
            assert set(alpha.ask("signals", pids=list(pids.values())).values()) == {"EPERM"}

    def test_not_even_a_process_of_its_own_job(self, scene: Scene) -> None:
        pids = {a["name"]: a["pid"] for a in aggregators(scene.on, "alpha")}
        with scene.attacker() as alpha:
            none_gave_way(alpha.ask("processes", victims=victims(pids, "alpha")))

    def test_root_without_its_rights_cannot_either(self, scene: Scene) -> None:
        pids = standing(scene.on, "beta") | {"agent": scene.on.process("agent-0").pid}
        with attacker(0, scene.python, NO_RIGHTS) as alpha:
            none_gave_way(alpha.ask("processes", victims=victims(pids, "beta")))

    def test_the_attacks_are_real(self, scene: Scene) -> None:
        """On a process that holds a memfd and does not protect itself they work."""
        with scene.attacker() as alpha, scene.attacker() as victim:
            fd = victim.ask("hold")
            met = alpha.ask("processes", victims=[{"name": "x", "pid": victim.pid, "fd": fd}])["x"]
        assert met["list fds"] == met["open fd"] == "ok"
        scope = Path("/proc/sys/kernel/yama/ptrace_scope")
        if not scope.exists() or scope.read_text().strip() == "0":
            assert {how for name, how in met.items() if name != "map_files"} == {"ok"}

    def test_the_platforms_files_are_closed(self, scene: Scene) -> None:
        paths = scene.on.paths
        files = [p for p in paths.home.rglob("*") if "bpf" in p.parts or not p.is_dir()]
        node = paths.run / "node-0"
        files += [paths.state, paths.logs, paths.aggregators, paths.home / "keys", node / "bpf"]
        open_to_all = {scene.socket}
        with scene.attacker() as alpha:
            met = alpha.ask("files", paths=sorted(map(str, files)))
        assert str(admin_socket(paths.run, "node-0")) in met
        assert str(paths.state / "platform.secret") in met
        missing = {str(node / "bpf")} if not (node / "bpf").exists() else set()
        opened = {path for path, how in met.items() if how not in DENIED} - missing
        assert opened <= open_to_all, opened

    @pytest.mark.skipif(os.uname().machine not in doctor.BPF_CALL, reason="bpf(2)'s number")
    def test_the_kernels_maps_cannot_be_had(self, scene: Scene) -> None:
        number = doctor.BPF_CALL[os.uname().machine]
        with scene.attacker() as alpha:
            met = alpha.ask("bpf_objects", syscall=number, commands=sorted(BPF_BY_NUMBER))
        assert set(met.values()) == {"EPERM"}

    def test_tokens_of_one_job_open_nothing_of_another(self, scene: Scene) -> None:
        alpha, beta = scene.alpha, scene.beta
        coordinator, gateway = scene.on.state["coordinator_url"], scene.on.url
        doors = [
            ("GET", f"{coordinator}/internal/v1/watch"),
            ("POST", f"{coordinator}/internal/v1/claims"),
            ("POST", f"{coordinator}/internal/v1/nodes/node-0"),
            ("PUT", f"{coordinator}/internal/v1/jobs/beta/plan"),
            ("GET", f"{coordinator}/internal/v1/jobs/beta/model"),
            ("GET", f"{gateway}/v1/jobs/beta/model"),
            ("GET", f"{gateway}/v1/jobs/beta/rounds/current?client=c0"),
            ("POST", f"{gateway}/v1/jobs/beta/rounds/1/updates"),
            ("POST", f"{gateway}/v1/jobs/beta/stop"),
            ("PUT", f"{gateway}/v1/jobs/beta/model"),
            ("PUT", f"{gateway}/internal/v1/transfers/beta/1/1"),
        ]
        tokens = ["", alpha.token("c0"), auth.mint_submitter_token(alpha.key, "alpha")]
        tokens.append(auth.mint_client_token(alpha.key, "beta", "c0"))
        tokens.append(auth.mint_platform_token(alpha.key, "aggregator"))
        asked = [(method, url, token) for (method, url), token in itertools.product(doors, tokens)]
        with unharmed(scene, beta), scene.attacker() as thief:
            met = thief.ask("urls", requests=asked)
        assert len(met) == len(asked)
        assert not [m for m in met if m[-1] not in (401, 403)]

    def test_registering_for_another_job_is_refused(self, scene: Scene) -> None:
        taken = next(iter(standing(scene.on, "beta")))
        number = endpoints(scene.on, "beta")[taken]["endpoint"]
        base = {"path": scene.socket, "resume": None}
        with unharmed(scene, scene.beta), scene.attacker() as alpha:
            for kind, domain in (
                ("aggregator", "beta"),
                ("gateway", "beta"),
                ("coordinator", "beta"),
                ("gateway", "alpha"),
                ("coordinator", "alpha"),
            ):
                told = alpha.ask("register", kind=kind, name="spy", domain=domain, **base)
                assert (told["ok"], told["code"], told["fds"]) == (False, "forbidden", 0)
                assert str(scene.uid) in told["detail"]
            for domain in ("beta", "alpha"):
                told = alpha.ask(
                    "register",
                    **base | {"resume": number},
                    kind="aggregator",
                    name=taken,
                    domain=domain,
                    junk=3,
                )
                assert (told["ok"], told["code"], told["fds"]) == (False, "fenced", 0)
            for odd in ({"kind": "agent"}, {"name": "../x"}, {"domain": "gamma"}, {"kind": []}):
                request = {"kind": "aggregator", "name": "spy", "domain": "alpha"} | odd
                assert not alpha.ask("register", **base, **request)["ok"]

    def test_its_own_pool_cannot_be_resized_under_the_others(self, scene: Scene) -> None:
        with scene.attacker() as alpha:
            assert register(scene, alpha, "spy")["ok"]
            met = alpha.ask("pool")
        assert met["name"].startswith("/memfd:lifl-alpha")
        assert {met["shrink"], met["grow"], met["unseal"]} == {"EPERM"}

    def test_what_no_function_would_say_to_the_agent(self, scene: Scene) -> None:
        with unharmed(scene, scene.beta), unharmed(scene, scene.alpha), scene.attacker() as alpha:
            assert register(scene, alpha, "spy")["ok"]
            assert alpha.ask("garble", path=scene.socket) > 0

    def test_descriptors_of_a_function_without_a_part(self, scene: Scene) -> None:
        """It has a data socket, but no route: nothing it sends goes anywhere."""
        with unharmed(scene, scene.beta), unharmed(scene, scene.alpha), scene.attacker() as alpha:
            crafted = descriptors(scene)
            got, before = traffic(scene.on, "beta"), drops(scene.on)
            assert register(scene, alpha, "spy")["ok"]
            met = alpha.ask("send", descriptors=crafted)
            assert sum(met.values()) == len(crafted)
            assert "ok" not in met
            assert traffic(scene.on, "beta") == got
            now = drops(scene.on)
            assert now["no_route"] - before.get("no_route", 0) == well_formed(crafted)

    def test_descriptors_of_a_function_with_a_route(self, scene: Scene) -> None:
        """It takes the place of alpha's top: what it sends reaches alpha's coordinator alone."""
        with unharmed(scene, scene.beta), impostor(scene) as alpha:
            crafted = descriptors(scene)
            got, before = traffic(scene.on, "beta"), drops(scene.on)
            mine = traffic(scene.on, "alpha")["coordinator"]["rx_messages"]
            met = alpha.ask("send", descriptors=crafted)
            assert met["ok"] == well_formed(crafted)
            assert sum(met.values()) == len(crafted)
            cut = alpha.ask("send", descriptors=crafted[:9], cut=15)
            joined = alpha.ask("send", descriptors=crafted[:9], more="01010000" * 4)
            assert "ok" not in {**cut, **joined}
            assert traffic(scene.on, "beta") == got
            assert (
                traffic(scene.on, "alpha")["coordinator"]["rx_messages"] - mine
                == met["ok"]
            )
            now = drops(scene.on)
            assert now["bad_size"] - before.get("bad_size", 0) == 18
            assert now["bad_opcode"] > before.get("bad_opcode", 0)
            assert now["bad_version"] > before.get("bad_version", 0)

    def test_even_a_wrong_route_does_not_lead_to_another_job(self, scene: Scene) -> None:
        """With a route to beta, as a faulty agent might set it, the domain check still holds."""
        if scene.on.state["dataplane"] != "ebpf":
            pytest.skip("the relay's routes are in the agent's memory: tests/unit/dataplane")
        from ebpf.agent.loader import open_kernel

        crafted = [d for d in descriptors(scene) if well_formed([d])]
        with unharmed(scene, scene.beta), impostor(scene) as alpha:
            got, before = traffic(scene.on, "beta"), drops(scene.on)
            me = endpoints(scene.on, "alpha")[alpha.name]["endpoint"]
            with scene.on.admin() as admin:
                group = next(d["id"] for d in admin.domains() if d["name"] == "beta")
            targets = [(RouteType.ENDPOINT, e["endpoint"]) for e in endpoints(scene.on, "beta").values()]
            kernel = open_kernel(scene.on.paths.run / "node-0" / "bpf")
            try:
                assert kernel.adopted
                for route in (*targets, (RouteType.GROUP, group)):
                    kernel.maps["routes"].update(me, ROUTE.pack(*route))
                    assert "ok" not in alpha.ask("send", descriptors=crafted)
            finally:
                kernel.close()
            assert traffic(scene.on, "beta") == got
            reason = DropReason.DOMAIN.name.lower()
            count = (len(targets) + 1) * len(crafted)
            assert drops(scene.on)[reason] - before.get(reason, 0) == count

    @pytest.mark.parametrize("how", ["zeros", "ones", "header", "lock"])
    def test_what_it_does_to_its_own_pool_harms_no_other_job(self, scene: Scene, how: str) -> None:
        victim = scene.on.submit(f"gamma-{how}", clients=CLIENTS)
        begin(victim)
        uid = int(aggregators(scene.on, victim.name)[0]["uid"])
        table = {"at": 4096, "length": 32 * 128}
        scribbles: dict[str, dict[str, Any]] = {
            "zeros": {"how": "write", "byte": 0, **table},
            "ones": {"how": "write", "byte": 255, **table},
            "header": {"how": "write", "byte": 255, "at": 0, "length": 4096},
            "lock": {"how": "lock"},
        }
        with unharmed(scene, scene.beta), attacker(uid, scene.python) as traitor:
            told = traitor.ask(
                "register",
                path=scene.socket,
                kind="aggregator",
                name="traitor",
                domain=victim.name,
                resume=None,
            )
            assert told["ok"], told
            assert traitor.ask("scribble", **scribbles[how]) == "ok"
            for client in range(CLIENTS):
                scene.on.access  # noqa: B018
                victim.post(client, 1)
        scene.on.access.client(victim.name).json("POST", f"/v1/jobs/{victim.name}/stop")


def register(scene: Scene, who: Attacker, name: str) -> dict[str, Any]:
    """Register an attacker in its own job, which is its right."""
    told: dict[str, Any] = who.ask(
        "register",
        path=scene.socket,
        kind="aggregator",
        name=name,
        domain="alpha",
        resume=None,
    )
    return told


def descriptors(scene: Scene) -> list[tuple[int, int, int, int, int, int]]:
    """Return crafted descriptors: beta's very objects, then everything around them."""
    agent = scene.on.process("agent-0").pid
    pool = Pool.attach(os.open(f"/proc/{agent}/fd/{pool_fd(agent, 'beta')}", os.O_RDWR))
    try:
        real = [(ref, pool.entry(ref.slot).assignment) for ref in pool.find()]
        slots = pool.geometry.slots
    finally:
        pool.close()
    assert real
    assignments = sorted({a for _, a in real} | {0, 1, 0xFFFFFFFF})
    refs = [r for r, _ in real] + [SlotRef(s, g) for s in (0, slots - 1, slots, 65535) for g in (0, 1, 2, 0xFFFFFFFF)]
    crafted = [
        (WIRE_VERSION, int(opcode), *ref, assignment, 0xFFFFFFFF)
        for opcode, ref, assignment in itertools.product(Opcode, refs, assignments)
    ]
    ref = real[0][0]
    crafted += [(WIRE_VERSION, opcode, *ref, 1, 0) for opcode in range(256)]
    crafted += [(version, 1, *ref, 1, 0) for version in range(256)]
    return crafted


def well_formed(crafted: list[tuple[int, int, int, int, int, int]]) -> int:
    return sum(d[0] == WIRE_VERSION and d[1] in list(Opcode) for d in crafted)


class _Impostor:
    """An attacker under the name of an aggregator."""

    def __init__(self, who: Attacker, name: str) -> None:
        self.name = name
        self.ask = who.ask


@contextlib.contextmanager
def impostor(scene: Scene) -> Iterator[_Impostor]:
    """Kill alpha's top and have the attacker register in its place; later all is as before."""
    number = begin(scene.alpha)
    top = next(r["name"] for r in scene.alpha.plan()["roles"] if r["parent"] is None)
    controller = psutil.Process(scene.on.process("controller").pid)
    with scene.attacker() as who:
        controller.suspend()
        try:
            kill_tree(scene.on.aggregators("alpha")[top])
            told = wait_for(lambda: (t := register(scene, who, top))["ok"] and t, "the name")
            wait_for(lambda: routed(scene, told["endpoint"]), "the agent to know it")
            yield _Impostor(who, top)
        finally:
            os.kill(who.pid, signal.SIGKILL)
            controller.resume()
    scene.alpha.deliver_all(number)
    scene.alpha.check(number)


def routed(scene: Scene, endpoint: int) -> bool:
    return any(
        e["endpoint"] == endpoint and e["assignment"] for e in aggregators(scene.on, "alpha")
    )


# -- both jobs run as one user --------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(python: Path) -> Iterator[Scene]:
    """A platform without root: all is one user's. Descriptors go over plain sockets."""
    with tempfile.TemporaryDirectory(prefix="lifl-run-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        runner = run_as(NOBODY, python, Path(folder)) if ROOT else python
        with platform(dataplane="socket", python=runner) as on:
            yield two_jobs(on, python)


class TestOneUser:
    def test_whoever_holds_a_pool_keeps_it(self, shared: Scene) -> None:
        uid = NOBODY if ROOT else os.geteuid()
        assert {a["uid"] for j in ("alpha", "beta") for a in aggregators(shared.on, j)} == {uid}
        pids = {f"{job} {n}": p for job in ("alpha", "beta") for n, p in standing(shared.on, job).items()}
        pids["agent"] = shared.on.process("agent-0").pid
        with unharmed(shared, shared.beta), shared.attacker() as alpha:
            none_gave_way(alpha.ask("processes", victims=victims(pids, "beta")))

    def test_all_who_hold_a_pool_are_known(self, shared: Scene) -> None:
        """No process besides those of the test before has the memory."""
        if not ROOT:
            pytest.skip("only root can see who holds what")
        known = {p for job in ("alpha", "beta") for p in standing(shared.on, job).values()}
        known.add(shared.on.process("agent-0").pid)
        holders = {
            p.pid
            for p in shared.on.processes()
            if any(pool_fd(p.pid, job) != 3 for job in ("alpha", "beta"))
        }
        assert holders == known

    def test_the_person_who_starts_it_is_told(self, shared: Scene) -> None:
        log = shared.on.paths.log("supervisor").read_text()
        assert "jobs are not isolated from each other: not started as root" in log.replace("\n", " ")
