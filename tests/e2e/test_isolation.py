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
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from lifl import auth, bpf
from lifl.errors import Unavailable
from lifl.naming import admin_socket, agent_socket
from lifl.store import Pool, SlotRef
from lifl.wire import ROUTE, WIRE_VERSION, Opcode, RouteType

from .kit import Job, Platform, kill_tree, platform, wait_for
from .users import NOBODY, Attacker, attacker, python_for_all, run_as

ROOT = os.geteuid() == 0
CLIENTS = 3
DENIED = {"EPERM", "EACCES"}
NO_RIGHTS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")
NUMBERS = itertools.count()
Crafted = tuple[int, int, int, int, int, int]
BPF_BY_NUMBER = {11, 12, 13, 14}
"""bpf(2)'s PROG_GET_NEXT_ID, MAP_GET_NEXT_ID, PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID."""


@dataclass
class Scene:
    """A platform with two jobs."""

    on: Platform
    python: Path
    alpha: Job
    beta: Job

    @property
    def socket(self) -> str:
        """The agent's registration socket."""
        return str(agent_socket(self.on.paths.run, "node-0"))

    def attacker(self, job: Job | None = None) -> contextlib.AbstractContextManager[Attacker]:
        """Run an attacker with the identity of a job's functions, alpha's by default."""
        name = "alpha" if job is None else job.name
        return attacker(int(aggregators(self.on, name)[0]["uid"]), self.python)


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


def received(on: Platform, job: Job) -> int:
    return sum(c["rx_messages"] for c in traffic(on, job.name).values())


def drops(on: Platform) -> dict[str, int]:
    with on.admin() as admin:
        return dict(admin.counters()["drops"])


def standing(on: Platform, job: str) -> dict[str, int]:
    """Return the processes that serve a job."""
    return {name: e["pid"] for name, e in endpoints(on, job).items()}


def see_through(job: Job) -> None:
    """End a job's first round as its clients do: who hears that its update was lost sends again."""

    def committed() -> bool:
        for client in range(CLIENTS):
            if job.current(client)["your_update"] != "accepted":
                job.post(client, 1)
        return bool(job.status()["version"] == 1)

    wait_for(committed, "the round to be committed")
    job.check(1)


@contextlib.contextmanager
def unharmed(scene: Scene, job: Job) -> Iterator[int]:
    """Have a round of ``job`` under way; then it must end as if nothing had happened."""
    number = begin(job)
    before = standing(scene.on, job.name)
    agent = scene.on.process("agent-0")
    yield number
    job.deliver_all(number)
    job.check(number)
    assert before.items() <= standing(scene.on, job.name).items()
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
    """An interpreter for the platform and the attackers, whoever runs them."""
    if not ROOT:
        yield Path(sys.executable)
        return
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
    for job in (scene.alpha, scene.beta):
        staffed(job)
    return scene


def staffed(job: Job) -> None:
    """Wait until every aggregator of a job's plan is there; before, routes lead nowhere."""
    planned = {role["name"] for role in job.plan()["roles"]}
    wait_for(lambda: planned <= endpoints(job.platform, job.name).keys(), "the aggregators")


# -- each job has a user of its own ---------------------------------------------------------


@pytest.fixture(scope="module", params=[pytest.param("ebpf", marks=pytest.mark.ebpf), "socket"])
def scene(request: pytest.FixtureRequest, python: Path) -> Iterator[Scene]:
    if not ROOT:
        pytest.skip("only root can run each job's functions as a user of their own")
    with platform(dataplane=request.param, python=python, LIFL_RESTART_GRACE="2") as on:
        yield two_jobs(on, python)


class TestOtherUsers:
    def test_each_job_has_its_own_user(self, scene: Scene) -> None:
        users = [{a["uid"] for a in aggregators(scene.on, job)} for job in ("alpha", "beta")]
        assert [len(u) for u in users] == [1, 1]
        assert len({0, *users[0], *users[1]}) == 3
        for job in ("alpha", "beta"):
            for a in aggregators(scene.on, job):
                worker = psutil.Process(a["pid"])
                assert {*worker.uids(), *worker.parent().uids()} == {a["uid"]}
                status = Path(f"/proc/{a['pid']}/status").read_text()
                assert "CapEff:\t0000000000000000" in status
                assert "CapBnd:" in status

    def test_no_process_can_be_entered(self, scene: Scene) -> None:
        own = aggregators(scene.on, "alpha")[0]["uid"]
        others = [p for p in scene.on.processes() if p.uids().real != own]
        pids = {f"{p.pid} {p.cmdline()[1:3]}": p.pid for p in others}
        assert len(pids) >= 8
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
            met = alpha.ask("processes", victims=victims(pids, "beta"))
        for attempts in met.values():
            del attempts["list fds"]  # the numbers are no secret to root
        none_gave_way(met)

    def test_the_attacks_are_real(self, scene: Scene) -> None:
        """On a process that holds a memfd and does not protect itself they work."""
        with scene.attacker() as alpha, scene.attacker() as victim:
            fd = victim.ask("hold")
            met = alpha.ask("processes", victims=[{"name": "x", "pid": victim.pid, "fd": fd}])["x"]
        assert met["list fds"] == met["open fd"] == "ok"
        scope = Path("/proc/sys/kernel/yama/ptrace_scope")
        if not scope.exists() or scope.read_text().strip() == "0":
            assert {how for name, how in met.items() if name != "map_files"} <= {"ok", "EFAULT"}

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

    @pytest.mark.skipif(os.uname().machine not in bpf.BPF_CALL, reason="bpf(2)'s number")
    def test_the_kernels_maps_cannot_be_had(self, scene: Scene) -> None:
        number = bpf.BPF_CALL[os.uname().machine]
        with scene.attacker() as alpha:
            met = alpha.ask("bpf_objects", syscall=number, commands=sorted(BPF_BY_NUMBER))
        assert set(met.values()) == {"EPERM"}

    def test_tokens_of_one_job_open_nothing_of_another(self, scene: Scene) -> None:
        alpha, beta = scene.alpha, scene.beta
        coordinator, gateway = scene.on.state["coordinator_url"], scene.on.url
        doors = [
            ("GET", f"{coordinator}/internal/v1/watch"),
            ("POST", f"{coordinator}/internal/v1/claims"),
            ("POST", f"{coordinator}/internal/v1/updates"),
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
        uid = aggregators(scene.on, "alpha")[0]["uid"]
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
                assert f"not {uid}" in told["detail"]
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
            odd: dict[str, Any]
            for odd in ({"kind": "agent"}, {"name": "../x"}, {"domain": "gamma"}, {"kind": []}):
                request: dict[str, Any] = {
                    "kind": "aggregator",
                    "name": "spy",
                    "domain": "alpha",
                } | odd
                assert not alpha.ask("register", **base, **request)["ok"]

    def test_its_own_pool_cannot_be_resized_under_the_others(self, scene: Scene) -> None:
        with scene.attacker() as alpha:
            assert register(scene, alpha, scene.alpha, "spy")["ok"]
            met = alpha.ask("pool")
        assert met["name"].startswith("/memfd:lifl-alpha")
        assert {met["shrink"], met["grow"], met["unseal"]} == {"EPERM"}

    def test_what_no_function_would_say_to_the_agent(self, scene: Scene) -> None:
        with unharmed(scene, scene.beta), unharmed(scene, scene.alpha), scene.attacker() as alpha:
            assert register(scene, alpha, scene.alpha, "spy")["ok"]
            assert alpha.ask("garble", path=scene.socket) > 0

    def test_descriptors_of_a_function_without_a_part(self, scene: Scene) -> None:
        """An aggregator that is idle sends to the top of its own job, and nowhere else."""
        crafted = descriptors(scene)
        with unharmed(scene, scene.beta), sacrifice(scene) as job, scene.attacker(job) as rogue:
            assert register(scene, rogue, job, "spy")["ok"]
            self.send(scene, rogue, job, crafted)

    def test_descriptors_of_a_function_with_a_part(self, scene: Scene) -> None:
        """It is the top of its job: what it sends reaches its job's coordinator, and no other."""
        crafted = descriptors(scene)
        with unharmed(scene, scene.beta), sacrifice(scene) as job, impostor(scene, job) as rogue:
            self.send(scene, rogue, job, crafted)
            before = drops(scene.on)
            cut = rogue.ask("send", descriptors=crafted[:9], cut=15)
            joined = rogue.ask("send", descriptors=crafted[:9], more="01010000" * 4)
            assert "ok" not in {**cut, **joined}
            assert drops(scene.on)["bad_size"] - before.get("bad_size", 0) == 18

    @staticmethod
    def send(scene: Scene, rogue: Attacker, job: Job, crafted: list[Crafted]) -> None:
        """Send crafted descriptors; those that went anywhere stayed within the job."""
        before, beta = drops(scene.on), traffic(scene.on, "beta")
        met = rogue.ask("send", descriptors=crafted)
        (me,) = (e for e in endpoints(scene.on, job.name).values() if e["pid"] == rogue.pid)
        assert met.pop("ok") == me["counters"]["tx_messages"] == well_formed(crafted)
        assert received(scene.on, job) >= well_formed(crafted)
        assert sum(met.values()) == len(crafted) - well_formed(crafted)
        assert traffic(scene.on, "beta") == beta
        now = drops(scene.on)
        for reason, number in (("bad_opcode", 253), ("bad_version", 255)):
            assert now[reason] - before.get(reason, 0) == number

    @pytest.mark.ebpf
    def test_even_a_wrong_route_does_not_lead_to_another_job(self, scene: Scene) -> None:
        """With a route to beta, as a faulty agent might set it, the domain check still holds.

        The relay keeps its routes in the agent's memory; its check has unit tests.
        """
        if scene.on.state["dataplane"] != "ebpf":
            return
        from ebpf.agent.loader import open_kernel

        crafted = [d for d in descriptors(scene) if well_formed([d])]
        with unharmed(scene, scene.beta), sacrifice(scene) as job, impostor(scene, job) as rogue:
            before, beta = drops(scene.on), traffic(scene.on, "beta")
            (me,) = (e for e in endpoints(scene.on, job.name).values() if e["pid"] == rogue.pid)
            with scene.on.admin() as admin:
                group = next(d["id"] for d in admin.domains() if d["name"] == "beta")
            routes = [(RouteType.GROUP, group)]
            routes += [
                (RouteType.ENDPOINT, e["endpoint"]) for e in endpoints(scene.on, "beta").values()
            ]
            kernel = open_kernel(scene.on.paths.run / "node-0" / "bpf")
            try:
                assert kernel.adopted
                for route in routes:
                    kernel.maps["routes"].update(me["endpoint"], ROUTE.pack(*route))
                    met = rogue.ask("send", descriptors=crafted)
                    assert met == {"EPIPE": len(crafted)}
            finally:
                kernel.close()
            assert traffic(scene.on, "beta") == beta
            assert drops(scene.on)["domain"] - before.get("domain", 0) == len(routes) * len(crafted)

    @pytest.mark.parametrize("how", ["zeros", "ones", "header", "lock"])
    def test_what_it_does_to_its_own_pool_harms_no_other_job(self, scene: Scene, how: str) -> None:
        table = {"at": 4096, "length": 32 * 128}
        scribbles: dict[str, dict[str, Any]] = {
            "zeros": {"how": "write", "byte": 0, **table},
            "ones": {"how": "write", "byte": 255, **table},
            "header": {"how": "write", "byte": 255, "at": 0, "length": 4096},
            "lock": {"how": "lock"},
        }
        with unharmed(scene, scene.beta), sacrifice(scene) as job, scene.attacker(job) as rogue:
            assert register(scene, rogue, job, "spy")["ok"]
            before = scene.on.events()
            assert rogue.ask("scribble", **scribbles[how]) == "ok"
            with contextlib.suppress(Unavailable):
                job.post(1, 1)
            if how in ("ones", "lock"):  # it is noticed, and the job goes on in another pool
                event = {"ones": "damages", "lock": "kills"}[how]
                wait_for(lambda: scene.on.events().get(event, 0) > before.get(event, 0), event)
                os.kill(rogue.pid, signal.SIGKILL)
                see_through(job)

    def test_a_ruined_pool_does_not_stop_the_next_agent(self, scene: Scene) -> None:
        """The agent dies; the functions bring its successor their pools, and one is of no use."""
        with sacrifice(scene) as job, scene.attacker(job) as rogue:
            number = begin(scene.beta)
            assert register(scene, rogue, job, "spy")["ok"]
            rogue.ask("scribble", how="write", byte=255, at=0, length=4096)
            scene.on.back(scene.on.kill("agent-0"), "agent-0")
            scene.beta.deliver_all(number)
            scene.beta.check(number)
            successor = scene.on.process("agent-0")
            os.kill(rogue.pid, signal.SIGKILL)
            see_through(job)  # in a pool that the successor made
            assert scene.on.process("agent-0") == successor


def register(scene: Scene, who: Attacker, job: Job, name: str) -> dict[str, Any]:
    """Register an attacker in its own job, which is its right."""
    told: dict[str, Any] = who.ask(
        "register",
        path=scene.socket,
        kind="aggregator",
        name=name,
        domain=job.name,
        resume=None,
    )
    return told


@contextlib.contextmanager
def sacrifice(scene: Scene) -> Iterator[Job]:
    """Run one more job, whose own functions may ruin it."""
    job = scene.on.submit(f"rogue-{next(NUMBERS)}", clients=CLIENTS)
    begin(job)
    staffed(job)
    yield job
    submitter = scene.on.access.client(job.name)
    wait_for(lambda: submitter.json("POST", f"/v1/jobs/{job.name}/stop"), "it to stop")


def descriptors(scene: Scene) -> list[Crafted]:
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
    refs = [r for r, _ in real] + [
        SlotRef(s, g) for s in (0, slots - 1, slots, 65535) for g in (0, 1, 2, 0xFFFFFFFF)
    ]
    crafted = [
        (WIRE_VERSION, int(opcode), *ref, assignment, 0xFFFFFFFF)
        for opcode, ref, assignment in itertools.product(Opcode, refs, assignments)
    ]
    ref = real[0][0]
    crafted += [(WIRE_VERSION, opcode, *ref, 1, 0) for opcode in range(256)]
    crafted += [(version, 1, *ref, 1, 0) for version in range(256)]
    return crafted


def well_formed(crafted: list[Crafted]) -> int:
    """Count those that the data plane must deliver."""
    return sum(d[0] == WIRE_VERSION and d[1] in list(Opcode) for d in crafted)


@contextlib.contextmanager
def impostor(scene: Scene, job: Job) -> Iterator[Attacker]:
    """Kill a job's top aggregator and have an attacker take its name and part."""
    top = next(r["name"] for r in job.plan()["roles"] if r["parent"] is None)
    controller = psutil.Process(scene.on.process("controller").pid)
    with scene.attacker(job) as rogue:
        controller.suspend()  # it would start another
        try:
            kill_tree(scene.on.aggregators(job.name)[top])
            wait_for(lambda: register(scene, rogue, job, top)["ok"], "the name to be free")
            (me,) = (e for e in endpoints(scene.on, job.name).values() if e["pid"] == rogue.pid)
            assert me["assignment"]
            yield rogue
        finally:
            os.kill(rogue.pid, signal.SIGKILL)
            controller.resume()


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
        pids = {
            f"{job} {n}": p
            for job in ("alpha", "beta")
            for n, p in standing(shared.on, job).items()
        }
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
        assert "jobs are not isolated from each other: not started as root" in log.replace(
            "\n", " "
        )
