"""What an operator speaks to, in a few lines: an API server's objects, and a coordinator."""

from __future__ import annotations

import copy
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from controller.clients import errors
from controller.clients.kinds import Kind
from controller.cluster.federatedjob import API, KIND

Object = dict[str, Any]
SPEC: Object = {"rounds": 20, "clients": {"perRound": 10}}


def body(name: str = "digits", uid: str = "u1", **members: Any) -> Object:
    """Return a FederatedJob as an API server sends it."""
    metadata = {"name": name, "namespace": "lifl", "uid": uid, "generation": 1}
    return {"apiVersion": API, "kind": KIND, "metadata": metadata, "spec": SPEC} | members


class Cluster:
    """Objects by kind, namespace and name; ``fail`` is raised by the next writes."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.events: list[tuple[str, str, bool]] = []
        self.patches: list[Object] = []
        self.fail: Exception | None = None
        self.wrote = threading.Condition()

    def find(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        return copy.deepcopy(self.objects.get((kind.kind, namespace, name)))

    def create(self, kind: Kind, raw: Object, namespace: str = "") -> Object:
        if self.fail is not None:
            raise self.fail
        key = (kind.kind, namespace, raw["metadata"]["name"])
        if key in self.objects:
            raise errors.Exists("it is there", 409, "AlreadyExists")
        self.objects[key] = copy.deepcopy(raw)
        return raw

    def patch(
        self, kind: Kind, name: str, change: Object, namespace: str = "", *, subresource: str = ""
    ) -> Object:
        if self.fail is not None:
            raise self.fail
        with self.wrote:
            found = self.objects[kind.kind, namespace, name]
            for member, value in change.items():
                found[member] = {**found.get(member, {}), **value}
                found[member] = {k: v for k, v in found[member].items() if v is not None}
            self.patches.append(copy.deepcopy(change))
            self.wrote.notify_all()
        return found

    def delete(self, kind: Kind, name: str, namespace: str = "", *, uid: str = "") -> None:
        self.objects.pop((kind.kind, namespace, name), None)

    def event(self, about: Object, reason: str, message: str, *, warning: bool = False) -> None:
        with self.wrote:
            self.events.append((about["name"], reason, warning))
            self.wrote.notify_all()


class Coordinator:
    """Jobs by name. ``refuse`` maps "METHOD /path" to an answer that is given instead."""

    def __init__(self) -> None:
        self.jobs: dict[str, Object] = {}
        self.refuse: dict[str, tuple[int, Object]] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                raw = self.rfile.read(length)
                if len(raw) < length:  # the sender broke off
                    self.close_connection = True
                    return
                url = urlsplit(self.path)
                outer.asked.append(f"{self.command} {self.path}")
                instead = outer.refuse.get(f"{self.command} {url.path}")
                status, answer = instead or outer.answer(self.command, url.path, url.query, raw)
                sent = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            do_GET = do_PUT = do_POST = do_DELETE = _serve

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def answer(self, method: str, path: str, query: str, raw: bytes) -> tuple[int, Object]:
        if (method, path) == ("POST", "/v1/jobs"):
            return self._submit(json.loads(raw))
        _, _, _, name, *rest = path.split("/")
        job = self.jobs.get(name)
        if job is None:
            return 404, {"code": "no-such-job", "detail": "there is none"}
        if method == "DELETE":
            if parse_qs(query).get("owner", [job["owner"]]) != [job["owner"]]:
                return 409, {"code": "other-owner"}
            del self.jobs[name]
            return 200, {}
        if rest == ["model"]:
            if job["state"] != "submitted":
                return 409, {"code": "model-exists"}
            job.update(state="running", model=raw, round=1, rounds=20, attempt=1, version=0)
            job.update(goal=10, accepted=0)
            return 201, {}
        if rest == ["history"]:
            after = int(parse_qs(query)["after"][0])
            return 200, {"rounds": [r for r in job["history"] if r["version"] > after]}
        hidden = ("auth_key", "model", "history")
        return 200, {k: v for k, v in job.items() if k not in hidden}

    def _submit(self, ask: Object) -> tuple[int, Object]:
        name = ask["spec"]["metadata"]["name"]
        job = self.jobs.get(name)
        if job is not None and job["owner"] != ask["owner"]:
            return 409, {"code": "job-exists", "detail": "taken"}
        if job is not None and job["spec"] != ask["spec"]:
            return 409, {"code": "other-spec", "detail": "changed"}
        status = 200 if job is not None else 201
        job = self.jobs.setdefault(name, {"job": name, "state": "submitted", "detail": ""})
        job |= {"owner": ask["owner"], "spec": ask["spec"], "history": []}
        job.setdefault("auth_key", f"{len(self.jobs):02x}" * 32)
        return status, {"job": name, "auth_key": job["auth_key"]}

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
