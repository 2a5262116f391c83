"""What the webhook makes of pods."""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch
import kubernetes_validate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.cluster.inject import AGENT_VOLUME, InjectSettings, patch
from controller.cluster.specs import Refused
from functions.aggregator import gunicorn_conf
from functions.aggregator.settings import AggregatorSettings

from . import pods

SETTINGS = InjectSettings()


def patched(pod: pods.Pod, options: InjectSettings = SETTINGS) -> pods.Pod:
    """Apply the operations with somebody else's JSON patch, and hold the result to the schema."""
    before = copy.deepcopy(pod)
    operations = patch(pod, options)
    assert pod == before, "the pod itself was changed"
    made: pods.Pod = jsonpatch.apply_patch(pod, operations)
    kubernetes_validate.validate(made, "1.36", strict=True)
    assert patch(made, options) == [], "a patched pod was patched again"
    return made


def container(pod: pods.Pod, name: str) -> dict[str, Any]:
    return next(c for c in pod["spec"]["containers"] if c["name"] == name)


def env(pod: pods.Pod, name: str) -> dict[str, Any]:
    """Return the container's variables: a value, or the path of the field it comes from."""
    entries = container(pod, name).get("env", [])
    assert len({e["name"] for e in entries}) == len(entries), "a variable is there twice"
    return {
        e["name"]: e["valueFrom"]["fieldRef"]["fieldPath"] if "valueFrom" in e else e.get("value")
        for e in entries
    }


INTRODUCTION = {
    "LIFL_NODE": "spec.nodeName",
    "LIFL_POD_IP": "status.podIP",
    "LIFL_NAME": "metadata.annotations['lifl.dev/name']",
    "LIFL_DOMAIN": "metadata.annotations['lifl.dev/job']",
    "LIFL_REGISTRATION": "metadata.annotations['lifl.dev/registration']",
    "LIFL_AGENT_SOCKET": "/run/lifl/agent.sock",
}
OF_ALL = [
    (pods.knative("aggregator"), "user-container"),
    (pods.knative("gateway"), "user-container"),
    (pods.knative("coordinator"), "user-container"),
    (pods.openfaas("aggregator"), "lifl-aggregator"),
    (pods.openfaas("gateway"), "lifl-gateway"),
    (pods.plain("coordinator"), "coordinator"),
    (pods.plain("aggregator"), "aggregator"),
]


@pytest.mark.parametrize(("pod", "name"), OF_ALL)
def test_every_function_gets_the_agent_its_name_and_the_scheduler(pod, name):
    made = patched(pod)
    assert env(made, name).items() >= INTRODUCTION.items()
    assert made["spec"]["schedulerName"] == "lifl-scheduler"
    assert {
        "name": AGENT_VOLUME,
        "hostPath": {"path": "/run/lifl", "type": "DirectoryOrCreate"},
    } in made["spec"]["volumes"]
    mounts = container(made, name)["volumeMounts"]
    assert mounts[-1] == {"name": AGENT_VOLUME, "mountPath": "/run/lifl", "readOnly": True}
    assert mounts[:-1] == container(pod, name).get("volumeMounts", [])
    assert made["spec"].get("automountServiceAccountToken") == pod["spec"].get(
        "automountServiceAccountToken"
    )


@pytest.mark.parametrize("options", [SETTINGS, InjectSettings("/srv/agents", "other", 7, 40)])
def test_settings_are_used(options):
    made = patched(pods.knative(), options)
    assert made["spec"]["schedulerName"] == options.scheduler
    assert env(made, "user-container")["LIFL_AGENT_SOCKET"] == f"{options.run_dir}/agent.sock"
    assert env(made, "user-container")["LIFL_DRAIN_SECONDS"] == str(options.drain_seconds)


def test_a_pod_without_the_label_is_nobodys():
    pod = pods.knative()
    del pod["metadata"]["labels"]["lifl.dev/function"]
    assert patch(pod) == []
    del pod["metadata"]["labels"]
    assert patch(pod) == []


def test_the_names_come_first_so_that_others_may_refer_to_them():
    pod = pods.plain("gateway")
    own = {"name": "LIFL_GATEWAY_URL", "value": "http://$(LIFL_NODE).example:81"}
    container(pod, "gateway")["env"] = [own]
    entries = container(patched(pod), "gateway")["env"]
    assert [e["name"] for e in entries] == [*INTRODUCTION, "LIFL_GATEWAY_URL"]
    assert entries[-1] == own


def test_nobody_names_itself():
    pod = pods.knative(
        **{"lifl.dev/name": "top", "lifl.dev/job": "theirs", "lifl.dev/registration": "e30.e30."}
    )
    container(pod, "user-container")["env"][:0] = [
        {"name": n, "value": "mine"} for n in INTRODUCTION
    ]
    made = patched(pod)
    assert env(made, "user-container").items() >= INTRODUCTION.items()
    assert made["metadata"]["annotations"] == pods.knative()["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("given_env", "given_ports", "port"),
    [
        ([], [], 8080),
        ([], [{"containerPort": 9000}], 9000),
        ([{"name": "PORT", "value": "7000"}], [{"containerPort": 9000}], 7000),
        ([{"name": "LIFL_GATEWAY_URL", "value": ""}], [], 8080),
    ],
)
def test_a_gateway_without_a_url_gets_its_pods(given_env, given_ports, port):
    pod = pods.plain("gateway")
    container(pod, "gateway").update(env=given_env, ports=given_ports)
    assert env(patched(pod), "gateway")["LIFL_GATEWAY_URL"] == f"http://$(LIFL_POD_IP):{port}"
    assert "LIFL_GATEWAY_URL" not in env(patched(pods.plain("coordinator")), "coordinator")


def test_a_url_from_elsewhere_is_kept():
    pod = pods.plain("gateway")
    own = {
        "name": "LIFL_GATEWAY_URL",
        "valueFrom": {"configMapKeyRef": {"name": "urls", "key": "gateway"}},
    }
    container(pod, "gateway")["env"] = [own]
    assert container(patched(pod), "gateway")["env"][-1] == own


# -- queue-proxy ------------------------------------------------------------------------


def test_an_aggregator_takes_queue_proxys_place():
    pod = pods.knative("aggregator")
    made = patched(pod)
    assert [c["name"] for c in made["spec"]["containers"]] == ["user-container"]
    user = container(made, "user-container")
    assert user["ports"] == [{"name": "user-port", "containerPort": 8012, "protocol": "TCP"}]
    assert user["readinessProbe"] == pods.queue_proxy()["readinessProbe"] | {"periodSeconds": 1}
    assert user["livenessProbe"]["httpGet"]["port"] == 8012
    assert "lifecycle" not in user
    assert env(made, "user-container") == INTRODUCTION | {
        "LIFL_SUM_THREADS": "2",
        "PORT": "8012",
        "K_REVISION": "aggregator-00001",
        "K_CONFIGURATION": "aggregator",
        "K_SERVICE": "aggregator",
        "SERVING_NAMESPACE": "lifl",
        "SERVING_SERVICE": "aggregator",
        "SERVING_CONFIGURATION": "aggregator",
        "SERVING_REVISION": "aggregator-00001",
        "SERVING_POD": "metadata.name",
        "SERVING_POD_IP": "status.podIP",
        "CONTAINER_CONCURRENCY": "0",
        "REVISION_TIMEOUT_SECONDS": "300",
        "LIFL_STATS_PORT": "9090",
        "LIFL_DRAIN_SECONDS": "3",
    }
    assert made["spec"]["terminationGracePeriodSeconds"] == 300
    kept = set(user) - {"env", "ports", "readinessProbe", "livenessProbe", "volumeMounts"}
    assert {k: user[k] for k in kept} == {k: pods.user_container()[k] for k in kept}


def test_queue_proxy_without_a_probe_leaves_one_behind():
    pod = pods.knative()
    del container(pod, "queue-proxy")["readinessProbe"]
    probe = container(patched(pod), "user-container")["readinessProbe"]
    assert probe == pods.queue_proxy()["readinessProbe"] | {"periodSeconds": 1}


def test_probes_of_other_ports_stay():
    pod = pods.knative()
    user = container(pod, "user-container")
    user["livenessProbe"] = pods.probe(tcpSocket={"port": 8080})
    user["startupProbe"] = pods.probe(httpGet={"path": "/", "port": 9999, "scheme": "HTTP"})
    made = container(patched(pod), "user-container")
    assert made["livenessProbe"]["tcpSocket"]["port"] == 8012
    assert made["startupProbe"]["httpGet"]["port"] == 9999


@pytest.mark.parametrize("function", ["gateway", "coordinator"])
def test_others_keep_queue_proxy(function):
    made = patched(pods.knative(function))
    assert container(made, "queue-proxy") == pods.queue_proxy()
    assert env(made, "user-container")["PORT"] == "8080"
    assert "lifecycle" in container(made, "user-container")


def test_an_aggregator_may_keep_queue_proxy():
    made = patched(pods.knative("aggregator", **{"lifl.dev/sidecar": "keep"}))
    assert container(made, "queue-proxy") == pods.queue_proxy()
    assert not {"LIFL_STATS_PORT", "LIFL_DRAIN_SECONDS"} & set(env(made, "user-container"))
    assert "lifecycle" in container(made, "user-container")
    assert made["spec"]["terminationGracePeriodSeconds"] == 300


@pytest.mark.parametrize(("given_grace", "drain", "grace"), [(10, None, 38), (10, "60", 95)])
def test_a_pod_has_the_time_to_drain_and_end(given_grace, drain, grace):
    pod = pods.knative()
    pod["spec"]["terminationGracePeriodSeconds"] = given_grace
    if drain:
        entry = {"name": "LIFL_DRAIN_SECONDS", "value": drain}
        container(pod, "user-container")["env"].append(entry)
    made = patched(pod)
    assert made["spec"]["terminationGracePeriodSeconds"] == grace
    assert env(made, "user-container")["LIFL_DRAIN_SECONDS"] == (drain or "3")


def test_what_the_aggregator_reads_is_what_the_webhook_writes():
    """The two parts may not import each other: names and times are compared here."""
    variables = env(patched(pods.knative()), "user-container")
    read = AggregatorSettings.from_env(
        {n: v for n, v in variables.items() if n not in INTRODUCTION} | {"LIFL_DOMAIN": "digits"}
    )
    assert (read.stats_port, read.drain_seconds) == (9090, SETTINGS.drain_seconds)
    assert gunicorn_conf.DRAIN_SECONDS == 0
    assert SETTINGS.ending_seconds > gunicorn_conf.graceful_timeout


def test_openfaas_aggregators_drain_too():
    made = patched(pods.openfaas("aggregator"))
    assert env(made, "lifl-aggregator")["LIFL_DRAIN_SECONDS"] == "3"
    assert "LIFL_STATS_PORT" not in env(made, "lifl-aggregator")
    assert made["spec"]["terminationGracePeriodSeconds"] == 38


# -- which container, and what is refused -----------------------------------------------


def sidecar(name: str = "istio-proxy") -> dict[str, Any]:
    return {"name": name, "image": "example.com/proxy:1", "env": [{"name": "A", "value": "b"}]}


@pytest.mark.parametrize("pod", [pods.knative(), pods.openfaas()])
def test_somebody_elses_sidecar_gets_nothing(pod):
    pod["spec"]["containers"].insert(0, sidecar())
    assert container(patched(pod), "istio-proxy") == sidecar()


def test_a_plain_pod_has_all_its_containers_patched_or_the_named_one():
    pod = pods.plain("coordinator")
    pod["spec"]["containers"].append(sidecar("second"))
    for name in ("coordinator", "second"):
        assert env(patched(pod), name).items() >= INTRODUCTION.items()
    pod["metadata"]["annotations"]["lifl.dev/container"] = "coordinator"
    assert container(patched(pod), "second") == sidecar("second")
    assert env(patched(pod), "coordinator").items() >= INTRODUCTION.items()


def two_containers(function: str, **annotations: str) -> pods.Pod:
    pod = pods.knative(function, **annotations)
    second = pods.user_container("second", 8081) | {"ports": []}
    pod["spec"]["containers"].insert(1, second)
    return pod


def test_a_gateway_of_several_containers_names_one():
    pod = two_containers("gateway", **{"lifl.dev/container": "user-container"})
    made = patched(pod)
    assert container(made, "second") == container(pod, "second")
    assert env(made, "user-container").items() >= INTRODUCTION.items()


def with_spec(pod: pods.Pod, **spec: Any) -> pods.Pod:
    pod["spec"].update(spec)
    return pod


def encrypted() -> pods.Pod:
    pod = pods.knative()
    container(pod, "queue-proxy")["volumeMounts"] = [
        {"name": "server-certs", "mountPath": "/var/lib/knative/certs", "readOnly": True}
    ]
    return pod


def h2c() -> pods.Pod:
    pod = pods.knative()
    pod["spec"]["containers"][1] = pods.queue_proxy(serving_port=8013)
    return pod


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (pods.plain("leaf"), "'leaf' is none of aggregator, coordinator, gateway"),
        (with_spec(pods.plain(), nodeName="n1"), "nodeName is set to 'n1'"),
        (with_spec(pods.plain(), containers=[pods.queue_proxy()]), "no container but queue-proxy"),
        (
            with_spec(pods.plain(), volumes=[{"name": "lifl-agent", "emptyDir": {}}]),
            "'lifl-agent' is LIFL's own",
        ),
        (pods.knative(**{"lifl.dev/container": "nobody"}), "the pod has user-container, queue"),
        (pods.knative(**{"lifl.dev/container": "queue-proxy"}), "names the container 'queue-proxy"),
        (pods.knative(**{"lifl.dev/sidecar": "none"}), "'none' must be keep"),
        (two_containers("gateway"), r"several containers \(user-container, second\)"),
        (
            two_containers("aggregator", **{"lifl.dev/container": "second"}),
            "cannot be taken out of a revision with several containers",
        ),
        (encrypted(), "system-internal-tls"),
        (h2c(), "http1 instead of h2c"),
    ],
)
def test_what_cannot_be_met_is_refused_with_a_reason(pod, words):
    with pytest.raises(Refused, match=words):
        patch(pod)


def test_what_only_queue_proxy_can_do_is_fine_where_it_stays():
    for pod in (encrypted(), h2c()):
        pod["metadata"]["annotations"]["lifl.dev/sidecar"] = "keep"
        assert container(patched(pod), "queue-proxy") == container(pod, "queue-proxy")


# -- any pod ----------------------------------------------------------------------------

FULL = patched(pods.plain("coordinator"))

NAMES = st.sampled_from(
    [
        *INTRODUCTION,
        "PORT",
        "LIFL_GATEWAY_URL",
        "LIFL_DRAIN_SECONDS",
        "LIFL_STATS_PORT",
        "SERVING_POD",
        "K_REVISION",
        "OTHER",
    ]
)
ENTRIES = st.one_of(
    st.fixed_dictionaries(
        {"name": NAMES}, optional={"value": st.sampled_from(["", "5", "7777", "x", "$(OTHER)"])}
    ),
    st.builds(pods.field, NAMES, st.just("status.hostIP")),
)
MOUNTS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["tmp", "lifl-agent", "data"]),
        "mountPath": st.sampled_from(["/tmp", "/run/lifl", "/run/lifl/", "/data"]),
    },
    optional={"readOnly": st.booleans()},
)
PROBES = st.sampled_from(
    [
        pods.probe(httpGet={"path": "/", "port": 8080, "scheme": "HTTP"}),
        pods.probe(tcpSocket={"port": "user-port"}),
        pods.probe(exec={"command": ["true"]}),
    ]
)
CONTAINERS = st.fixed_dictionaries(
    {"name": st.sampled_from(["user-container", "queue-proxy", "fn", "istio-proxy"])},
    optional={
        "env": st.lists(ENTRIES, max_size=6),
        "ports": st.lists(st.fixed_dictionaries({"containerPort": st.integers(1, 65535)})),
        "volumeMounts": st.lists(MOUNTS, max_size=3),
        "livenessProbe": PROBES,
        "readinessProbe": PROBES,
        "lifecycle": st.just(pods.user_container()["lifecycle"]),
    },
)
VOLUMES = st.sampled_from(["tmp", "data", "lifl-agent"]).map(lambda n: {"name": n, "emptyDir": {}})
PODS = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {
                "labels": st.fixed_dictionaries(
                    {
                        "lifl.dev/function": st.sampled_from(
                            ["gateway", "coordinator", "aggregator"]
                        )
                    },
                    optional={"faas_function": st.just("fn"), "app": st.just("a")},
                )
            },
            optional={
                "annotations": st.dictionaries(
                    st.sampled_from(
                        ["lifl.dev/name", "lifl.dev/job", "lifl.dev/sidecar", "lifl.dev/container"]
                    ),
                    st.sampled_from(["keep", "fn", "user-container"]),
                    max_size=3,
                )
            },
        ),
        "spec": st.fixed_dictionaries(
            {
                "containers": st.lists(
                    CONTAINERS, min_size=1, max_size=4, unique_by=lambda c: c["name"]
                )
            },
            optional={
                "volumes": st.lists(VOLUMES, max_size=2, unique_by=lambda v: v["name"]),
                "schedulerName": st.sampled_from(["default-scheduler", "theirs"]),
                "terminationGracePeriodSeconds": st.integers(0, 600),
                "hostNetwork": st.booleans(),
            },
        ),
    }
)


@settings(max_examples=400, deadline=None)
@given(PODS)
def test_any_pod_is_refused_or_complete_after_one_patch(pod):
    before = copy.deepcopy(pod)
    try:
        operations = patch(pod)
    except Refused as e:
        assert str(e)
        return
    finally:
        assert pod == before
    made = jsonpatch.apply_patch(pod, operations)
    assert patch(made) == []
    assert made["spec"]["schedulerName"] == "lifl-scheduler"
    introduced = []
    for c in made["spec"]["containers"]:
        old = container(before, c["name"])
        if c == old:
            continue
        introduced.append(c["name"])
        entries = c["env"]
        assert entries[: len(INTRODUCTION)] == container(FULL, "coordinator")["env"]
        assert not {e["name"] for e in entries[len(INTRODUCTION) :]} & set(INTRODUCTION)
        at_agent = [m for m in c["volumeMounts"] if m["mountPath"].rstrip("/") == "/run/lifl"]
        assert at_agent == [{"name": AGENT_VOLUME, "mountPath": "/run/lifl", "readOnly": True}]
        others = [e for e in old.get("env", []) if e["name"] == "OTHER"]
        assert [e for e in entries if e["name"] == "OTHER"] == others
    assert introduced
    assert "queue-proxy" not in introduced
    untouched = set(before["spec"]) - {
        "containers",
        "volumes",
        "schedulerName",
        "terminationGracePeriodSeconds",
    }
    assert {k: made["spec"][k] for k in untouched} == {k: before["spec"][k] for k in untouched}
    assert not {"lifl.dev/name", "lifl.dev/job"} & set(made["metadata"].get("annotations", {}))
