"""What an aggregator reads from its environment, and its gunicorn hooks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from functions.aggregator import gunicorn_conf
from functions.aggregator.settings import AggregatorSettings
from lifl.errors import ConfigError


def test_defaults_are_the_vanilla_way():
    s = AggregatorSettings.from_env({})
    assert (s.domain, s.patience, s.max_body_bytes, s.max_partials) == ("", 60.0, 1 << 30, 8)
    assert (s.stats_port, s.drain_seconds, s.pod_name) == (0, 0.0, "")


def test_the_pods_name_is_knatives_or_the_hosts():
    assert AggregatorSettings.from_env({"HOSTNAME": "h"}).pod_name == "h"
    assert AggregatorSettings.from_env({"HOSTNAME": "h", "SERVING_POD": "p"}).pod_name == "p"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIFL_DOMAIN", "No Label"),
        ("LIFL_AGENT_PATIENCE", "long"),
        ("LIFL_MAX_BODY_BYTES", "1G"),
        ("LIFL_STATS_PORT", "70000"),
        ("LIFL_DRAIN_SECONDS", "-1"),
        ("LIFL_DRAIN_SECONDS", "nan"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        AggregatorSettings.from_env({name: value})


def test_worker_exit_stops_the_runtime_if_there_is_one():
    stopped = []
    runtime = SimpleNamespace(stop=stopped.append)
    for extension in (runtime, None):
        app = SimpleNamespace(extensions={"lifl": extension})
        gunicorn_conf.worker_exit(None, SimpleNamespace(wsgi=app))
    gunicorn_conf.worker_exit(None, SimpleNamespace())
    assert stopped == [gunicorn_conf.graceful_timeout]
