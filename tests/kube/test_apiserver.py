"""The API server that other tests rely on answers, forbids, signs tokens and leaves nothing."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import psutil
import pytest
import urllib3
from kubernetes import client, config

from .apiserver import ISSUER, ApiServer, ServerFailedError


def _connect(kubeconfig: Path) -> client.ApiClient:
    settings = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=settings, persist_config=False)
    settings.retries = 0
    return client.ApiClient(settings)


def _await(call: Callable[[], object]) -> None:
    """Call until the server does not refuse: it learns of new roles and kinds through a watch."""
    deadline = time.monotonic() + 10.0
    while True:
        try:
            call()
            return
        except client.ApiException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _descriptors() -> int:
    gc.collect()
    return int(psutil.Process().num_fds())


@pytest.fixture
def api(apiserver: ApiServer) -> Iterator[client.ApiClient]:
    """Connect as someone who may do everything."""
    with _connect(apiserver.admin) as connected:
        yield connected


def test_it_is_kubernetes(api: client.ApiClient) -> None:
    version = client.VersionApi(api).get_code()
    assert (version.major, version.git_version.split(".")[1]) == ("1", version.minor.rstrip("+"))
    assert "default" in {n.metadata.name for n in client.CoreV1Api(api).list_namespace().items}


def test_kubectl_agrees(apiserver: ApiServer, cluster: Path) -> None:
    command = [f"{apiserver.assets}/kubectl", f"--kubeconfig={cluster}", "auth", "can-i", "*", "*"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "yes\n"


def test_an_unknown_user_may_do_what_roles_say_and_no_more(
    apiserver: ApiServer, api: client.ApiClient
) -> None:
    roles = client.RbacAuthorizationV1Api(api)
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}
    names = {"metadata": {"name": "readers"}}
    with _connect(apiserver.kubeconfig("somebody", ["readers"])) as other:
        core = client.CoreV1Api(other)
        with pytest.raises(client.ApiException, match="Forbidden"):
            core.list_namespaced_config_map("default")
        roles.create_namespaced_role("default", names | {"rules": [rule]})
        binding = {
            "roleRef": {"kind": "Role", "name": "readers", "apiGroup": "rbac.authorization.k8s.io"},
            "subjects": [{"kind": "Group", "name": "readers"}],
        }
        roles.create_namespaced_role_binding("default", names | binding)
        _await(lambda: core.list_namespaced_config_map("default"))
        with pytest.raises(client.ApiException, match="Forbidden"):
            core.list_namespaced_secret("default")


def test_a_token_makes_its_holder_the_service_account(
    apiserver: ApiServer, api: client.ApiClient
) -> None:
    core = client.CoreV1Api(api)
    core.create_namespaced_service_account("default", {"metadata": {"name": "worker"}})
    asked = {"spec": {"audiences": ["somebody", ISSUER], "expirationSeconds": 600}}
    token = core.create_namespaced_service_account_token("worker", "default", asked).status.token
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["sub"] == "system:serviceaccount:default:worker"
    assert (claims["iss"], claims["aud"]) == (ISSUER, ["somebody", ISSUER])

    review = {"spec": {"token": token, "audiences": ["somebody"]}}
    status = client.AuthenticationV1Api(api).create_token_review(review).status
    assert (status.authenticated, status.user.username) == (True, claims["sub"])

    with urllib3.PoolManager(ca_certs=str(apiserver.ca)) as pool:
        url, bearer = f"{apiserver.url}/api/v1/nodes", {"Authorization": f"Bearer {token}"}
        assert pool.request("GET", url, headers=bearer).status == 403  # known, but without a role
        assert pool.request("GET", url, headers={"Authorization": "Bearer x"}).status == 401


def test_objects_of_a_kind_of_ones_own(api: client.ApiClient) -> None:
    """A server compiled with an unfit reflection library dies of the labels."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": "Thing", "plural": "things"}
    spec = {"group": "test.io", "names": names, "scope": "Namespaced", "versions": [version]}
    kinds, objects = client.ApiextensionsV1Api(api), client.CustomObjectsApi(api)
    kinds.create_custom_resource_definition({"metadata": {"name": "things.test.io"}, "spec": spec})
    labels = {f"label-{i}": "x" for i in range(20)}
    thing = {"apiVersion": "test.io/v1", "kind": "Thing"}
    where = ("test.io", "v1", "default", "things")
    _await(lambda: objects.list_namespaced_custom_object(*where))
    for i in range(20):
        metadata = {"name": f"thing-{i}", "labels": labels}
        objects.create_namespaced_custom_object(*where, thing | {"metadata": metadata})
    found = objects.list_namespaced_custom_object(*where, label_selector="label-7=x")
    assert len(found["items"]) == 20


def test_stop_and_start_keep_objects_address_and_credentials(
    apiserver: ApiServer, api: client.ApiClient
) -> None:
    core, url = client.CoreV1Api(api), apiserver.url
    core.create_namespaced_config_map("default", {"metadata": {"name": "kept"}, "data": {"a": "b"}})
    apiserver.stop()
    with pytest.raises(urllib3.exceptions.HTTPError):
        core.read_namespaced_config_map("kept", "default")
    apiserver.start()
    assert core.read_namespaced_config_map("kept", "default").data == {"a": "b"}
    assert apiserver.url == url


def test_nothing_is_left(kube_assets: Path) -> None:
    before = _descriptors()
    with ApiServer(kube_assets) as server:
        pids, directory = server.pids, server.directory
        assert set(pids) == {"etcd", "kube-apiserver"}
        assert all(psutil.pid_exists(pid) for pid in pids.values())
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert not directory.exists()
    assert _descriptors() == before


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(kube_assets: Path) -> None:
    before, children = _descriptors(), psutil.Process().children()
    server = ApiServer(kube_assets, ["--no-such-flag"])
    with pytest.raises(ServerFailedError, match="no-such-flag"), server:
        pass
    assert (_descriptors(), psutil.Process().children()) == (before, children)
    assert server.directory == Path()


def test_it_is_started_from_the_main_thread_only(apiserver: ApiServer) -> None:
    problems: list[str] = []

    def start() -> None:
        try:
            apiserver.start()
        except RuntimeError as e:
            problems.append(str(e))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main" in problems[0]


def test_a_killed_test_process_takes_its_servers_along(kube_assets: Path) -> None:
    code = f"""
        from pathlib import Path
        from tests.kube.apiserver import ApiServer

        with ApiServer(Path({str(kube_assets)!r})) as server:
            print(*server.pids.values(), server.directory, flush=True)
            input()
    """
    killed = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with killed:
        assert killed.stdout is not None
        etcd, server, directory = killed.stdout.readline().split()
        processes = [psutil.Process(int(pid)) for pid in (etcd, server)]
        os.kill(killed.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    with ApiServer(kube_assets):  # the next one tidies up
        assert not Path(directory).exists()
