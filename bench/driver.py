"""One job on a running platform, driven round by round from outside.

Why: figures are taken of rounds as clients and operators see them: work asked for, updates
posted, models read, the coordinator's own account at the end. It must not know what is measured.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from bench.clients import Sent, head
from bench.harness import WAIT_SECONDS, Platform
from lifl import naming
from lifl.auth import mint_client_token
from lifl.cli.access import Access
from lifl.cli.jobs import submit_job
from lifl.client.http import HttpClient, HttpError
from lifl.store import SlotKind

PARK_SECONDS = 5.0
ROUND_SECONDS = 300.0


class Job:
    """One submitted job, driven round by round from outside."""

    def __init__(
        self,
        running_platform: Platform,
        name: str,
        document: bytes,
        *,
        clients: int,
        fan_in: int | None = 2,
        slots: int | None = None,
        timing: str = "eager",
        rounds: int = 1000,
    ) -> None:
        self.platform = running_platform
        self.name = name
        self.posted_round = 0
        self.nbytes = len(document)
        access = Access(None, None)
        spec: dict[str, Any] = {
            "rounds": rounds,
            "model": {"path": "model.safetensors"},
            "clients": {"perRound": clients, "minimum": clients, "selection": "all"},
            "strategy": {"name": "fedavg"},
            "update": "weights",
            "aggregation": {"timing": timing},
        }
        if fan_in is not None:
            spec["aggregation"]["fanIn"] = fan_in
        if slots is not None:
            spec["pool"] = {"slots": slots}
        job_file = {
            "apiVersion": "lifl.dev/v1alpha1",
            "kind": "FederatedJob",
            "metadata": {"name": name},
            "spec": spec,
        }
        submit_job(access, job_file, document)
        key = access.key(name)
        self.clients = [f"c{i}" for i in range(clients)]
        self.tokens = {c: mint_client_token(key, name, c) for c in self.clients}
        self.http = HttpClient(access.url, self.tokens[self.clients[0]])
        self.gateway = urlsplit(access.url)

    def ready(self, after: int = 0) -> dict[str, Any]:
        """Wait until a round later than ``after`` is open for everybody; return its answer."""
        answers = [self._current(client, after) for client in self.clients]
        self.wait_for_version(answers[0]["version"])
        return answers[0]

    def _current(self, client: str, after: int) -> dict[str, Any]:
        http = HttpClient(f"{self.gateway.scheme}://{self.gateway.netloc}", self.tokens[client])
        deadline = time.monotonic() + WAIT_SECONDS
        path = f"/v1/jobs/{self.name}/rounds/current?client={client}"
        while time.monotonic() < deadline:
            try:
                answer = http.json("GET", f"{path}&wait=0.2&after={after}", timeout=30)
            except HttpError as e:  # just submitted; the gateway does not know it yet
                if e.status != 404:
                    raise
                time.sleep(0.05)
                continue
            if answer["state"] == "open" and answer["round"] > after:
                http.close()
                return answer
        raise TimeoutError(f"no round after {after} opened for {client} in {WAIT_SECONDS} s")

    def requests(self, current: dict[str, Any]) -> list[tuple[str, int, bytes]]:
        """Return what each client sends in the present round."""
        url = urlsplit(current["upload_url"])
        host, port = url.hostname or "127.0.0.1", url.port or 80
        return [
            (host, port, head(host, port, url.path, self.nbytes, self.headers(i)))
            for i in range(len(self.clients))
        ]

    def opened(self, after: int = 0) -> dict[str, Any]:
        """Wait until a round later than ``after`` is open and every client has a node in it.

        Returns the job's view.
        """

        def probe(told: dict[str, Any]) -> dict[str, Any] | None:
            view = self._view_in(told)
            if view["round"] <= after or view["phase"] != "open":
                return None
            # where one node sums all, nobody has to be told which
            placed = len(view["clients"]) == len(self.clients) or len(nodes_of(view)) == 1
            return view if placed else None

        what = f"round {after + 1} of {self.name} to open"
        return self.platform.await_told(probe, what, ROUND_SECONDS)

    def committed(self, number: int) -> dict[str, Any]:
        """Wait until round ``number`` is committed; return the coordinator's account of it."""

        def probe(told: dict[str, Any]) -> bool | None:
            view = self._view_in(told)
            return view["round"] > number or view["phase"] == "done" or None

        what = f"round {number} of {self.name} to be committed"
        self.platform.await_told(probe, what, ROUND_SECONDS)
        return self.history()[-1]

    def placed_requests(
        self, view: dict[str, Any], samples: Sequence[int] | None = None
    ) -> list[tuple[str, int, bytes]]:
        """Return what each client sends in a round as ``view`` has it, each to its own node."""
        path = f"/v1/jobs/{self.name}/rounds/{view['round']}/updates"
        first = min(nodes_of(view))
        found = []
        for i, client in enumerate(self.clients):
            url = urlsplit(view["upload"][view["clients"].get(client, first)])
            host, port = url.hostname or "127.0.0.1", url.port or 80
            headers = self.headers(i, None if samples is None else samples[i])
            found.append((host, port, head(host, port, path, self.nbytes, headers)))
        return found

    def headers(self, index: int, samples: int | None = None) -> dict[str, str]:
        """Return the headers of one client's upload."""
        client = self.clients[index]
        return {
            naming.HEADER_CLIENT: client,
            naming.HEADER_NUM_SAMPLES: str(10 + index if samples is None else samples),
            "Authorization": f"Bearer {self.tokens[client]}",
        }

    def await_model(self, view: Mapping[str, Any]) -> None:
        """Wait until each node of a round serves the present model: its gateway is ready then.

        A node alone has done so when :meth:`ready` returns.
        """
        nodes = nodes_of(view)
        if len(nodes) == 1:
            return
        path = f"/v1/jobs/{self.name}/model?version={view['version']}"
        deadline = time.monotonic() + WAIT_SECONDS
        for node in sorted(nodes):
            with contextlib.closing(HttpClient(view["upload"][node], self.tokens["c0"])) as http:
                while http.request("GET", path, headers={"Range": "bytes=0-7"}).status == 503:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{node} did not get {self.name}'s model")
                    time.sleep(0.02)  # a gateway that just began to serve a job tells nobody

    def wait_for_version(self, version: int) -> float:
        """Return when (monotonic seconds) a GET was answered with model ``version``.

        It waits at the gateway, as a reader who wants the model does.
        """
        path = f"/v1/jobs/{self.name}/model?version={version}&wait={PARK_SECONDS:.0f}"
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            answer = self.http.request("GET", path, headers={"Range": "bytes=0-7"})
            if answer.status in (200, 206):
                return time.monotonic()
            time.sleep(0.01)  # 503: a gateway that just began to serve the job
        raise TimeoutError(f"model version {version} was not readable within {WAIT_SECONDS} s")

    def await_kept(self, version: int) -> None:
        """Wait until a version is on the disk, which with LIFL_CHECKPOINT_BEHIND readers do not.

        It costs who is measured nothing: its file has its name when it is synced.
        """
        folder = self.platform.paths.state / "checkpoints" / self.name
        deadline = time.monotonic() + WAIT_SECONDS
        while not list(folder.glob(f"v{version:06d}-*.safetensors")):
            if time.monotonic() > deadline:
                raise TimeoutError(f"version {version} of {self.name} did not come to the disk")
            time.sleep(0.005)  # files tell nobody

    def check(self, sent: list[Sent]) -> None:
        """Raise unless every upload was accepted."""
        bad = [s for s in sent if s.status != 202]
        if bad:
            raise RuntimeError(f"{len(bad)} uploads were refused, first: {bad[0].answer[-400:]!r}")

    def update_sealed(self, sent: Sent) -> float:
        """Return when (monotonic seconds) the one update sent since ``sent`` began was sealed."""
        rows = self.platform.admin().slots(self.name, int(sent.started * 1e9))
        (sealed,) = (r.sealed_ns for r in rows if r.kind is SlotKind.UPDATE)
        return sealed / 1e9

    def status(self) -> dict[str, Any]:
        """Return the job's progress."""
        status: dict[str, Any] = (
            Access(None, None).client(self.name).json("GET", f"/v1/jobs/{self.name}")
        )
        return status

    def history(self) -> list[dict[str, Any]]:
        """Return the committed rounds."""
        client = Access(None, None).client(self.name)
        rounds: list[dict[str, Any]] = client.json("GET", f"/v1/jobs/{self.name}/history")["rounds"]
        return rounds

    def view(self) -> dict[str, Any]:
        """Return what gateways and the controller are told of the job."""
        return self._view_in(self.platform.watched())

    def _view_in(self, told: dict[str, Any]) -> dict[str, Any]:
        view: dict[str, Any] = next(j for j in told["jobs"] if j["job"] == self.name)
        return view

    def stop(self) -> None:
        """Stop the job."""
        Access(None, None).client(self.name).json("POST", f"/v1/jobs/{self.name}/stop")
        self.http.close()


def nodes_of(view: Mapping[str, Any]) -> set[str]:
    """Return the nodes of a round's plan."""
    return {role["node"] for role in view["plan"]["roles"]}
