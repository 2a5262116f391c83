"""The vanilla way over HTTP: same sums as the flat reference, clear refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from functions.aggregator.settings import AggregatorSettings
from functions.aggregator.vanilla import IDLE_SECONDS, MEDIA_BATCH, frames, pack_frame
from functions.aggregator.web import create_app
from lifl.errors import UpdateError
from lifl.store import SlotKind
from lifl.update import iter_document, parse_header, views

TENSORS = "application/vnd.safetensors"


@pytest.fixture
def client():
    env = {"LIFL_NAME": "agg-1", "LIFL_MAX_PARTIALS": "2", "LIFL_MAX_BODY_BYTES": "4000000"}
    return create_app(AggregatorSettings.from_env(env), None).test_client()


@pytest.fixture
def body(schema):
    return lambda arrays: b"".join(bytes(p) for p in iter_document(arrays, schema))


def post(client, path, data, samples=None, media=TENSORS, **headers):
    if samples is not None:
        headers["LIFL-Num-Samples"] = str(samples)
    return client.post(path, data=data, content_type=media, headers=headers)


def floats(answer, schema):
    arrays = views(answer.data, parse_header(answer.data, len(answer.data)))
    return np.concatenate([arrays[s.name].ravel() for s in schema.floats])


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


def test_one_update_one_reply(client, schema, make_update, body, reference):
    answer = post(client, "/", body(make_update(1)), 3)
    assert answer.status_code == 200
    assert answer.mimetype == TENSORS
    assert float(answer.headers["LIFL-Weight"]) == 3.0
    close(floats(answer, schema), 3 * reference(schema, [make_update(1)], [1]))


@pytest.mark.parametrize("final", [0, 1])
def test_a_batch(client, schema, make_update, body, reference, final):
    updates = [make_update(1), make_update(2, "float16"), make_update(3)]
    samples = [3, 5, 9]
    batch = b"".join(
        pack_frame(body(u), n, SlotKind.UPDATE) + body(u)
        for u, n in zip(updates, samples, strict=True)
    )
    answer = post(client, f"/?final={final}", batch, media=MEDIA_BATCH)
    mean = reference(schema, updates, samples)
    close(floats(answer, schema), mean if final else 17 * mean)
    header = "LIFL-Num-Samples" if final else "LIFL-Weight"
    assert float(answer.headers[header]) == 17.0
    assert answer.headers["LIFL-Items"] == "3"


def test_a_tree_of_requests_equals_the_flat_mean(client, schema, make_update, body, reference):
    updates = [make_update(i) for i in range(6)]
    samples = [1, 20, 3, 400, 5, 60]
    for i, (arrays, n) in enumerate(zip(updates, samples, strict=True)):
        key = f"leaf-{i // 3}"
        answer = post(client, f"/v1/partials/{key}?goal=3", body(arrays), n)
        if i % 3 < 2:
            assert answer.status_code == 202
            assert answer.json == {"key": key, "items": i % 3 + 1}
            continue
        assert answer.status_code == 200
        up = post(
            client,
            "/v1/partials/top",
            answer.data,
            **{"LIFL-Weight": answer.headers["LIFL-Weight"]},
        )
        assert up.status_code == 202
    top = client.post("/v1/partials/top/seal?final=1")
    close(floats(top, schema), reference(schema, updates, samples))
    assert float(top.headers["LIFL-Num-Samples"]) == sum(samples)
    assert client.post("/v1/partials/top/seal").status_code == 404
    metrics = client.get("/metrics").text
    assert "lifl_aggregator_objects_added_total 8.0" in metrics
    assert "lifl_aggregator_partials_sealed_total 3.0" in metrics
    assert "lifl_aggregator_open_accumulators 0.0" in metrics


def event(client, data, number, samples, **more):
    return client.post(
        "/",
        data=data,
        content_type=TENSORS,
        headers={
            "ce-specversion": "1.0",
            "ce-id": str(number),
            "ce-source": "/clients/1",
            "ce-type": "dev.lifl.update",
            "ce-subject": "round-7",
            "ce-liflsamples": str(samples),
            "ce-liflgoal": "2",
            **more,
        },
    )


def test_cloudevents_counted_once_each(client, schema, make_update, body, reference):
    updates = [make_update(1), make_update(2)]
    for _ in range(2):  # a broker may deliver twice
        answer = event(client, body(updates[0]), 1, 3)
        assert (answer.status_code, answer.data) == (202, b"")
    answer = event(client, body(updates[1]), 2, 5, **{"ce-liflfinal": "1"})
    close(floats(answer, schema), reference(schema, updates, [3, 5]))
    heads = answer.headers
    assert (heads["ce-specversion"], heads["ce-type"]) == ("1.0", "dev.lifl.mean")
    assert (heads["ce-subject"], heads["ce-source"]) == ("round-7", "/aggregators/agg-1")
    assert float(heads["ce-liflsamples"]) == 8.0
    assert heads["ce-id"]


def test_the_event_that_finished_a_sum_gets_it_again(client, schema, make_update, body, reference):
    updates = [make_update(1), make_update(2)]
    assert event(client, body(updates[0]), 1, 3).status_code == 202
    first = event(client, body(updates[1]), 2, 5)
    again = event(client, body(updates[1]), 2, 5)  # its reply broke off
    assert again.data == first.data
    assert again.headers["ce-id"] == first.headers["ce-id"]  # so the top adds it once
    close(floats(again, schema), 8 * reference(schema, updates, [3, 5]))
    late = event(client, body(updates[0]), 1, 3)
    assert (late.status_code, late.data) == (202, b"")
    assert client.delete("/v1/partials/round-7").status_code == 404  # no sum was begun


def test_another_sum_of_the_same_subject_is_a_new_one(client, make_update, body):
    for number in (1, 2):
        event(client, body(make_update(number)), number, 3)
    for number in (3, 4):
        answer = event(client, body(make_update(number)), number, 5)
    assert float(answer.headers["ce-liflweight"]) == 10.0


def test_a_partial_as_an_event(client, make_update, body):
    answer = event(client, body(make_update(1)), 1, 3, **{"ce-liflgoal": "1"})
    assert answer.headers["ce-type"] == "dev.lifl.partial"
    assert float(answer.headers["ce-liflweight"]) == 3.0


def test_events_of_a_tree_need_nobody_to_rewrite_them(client, schema, make_update, body, reference):
    updates = [make_update(1), make_update(2)]
    parent = {"ce-liflgoal": "1", "ce-liflparent": "round-7", "ce-liflparts": "2"}
    for i, (arrays, samples) in enumerate(zip(updates, (3, 5), strict=True)):
        leaf = event(client, body(arrays), i, samples, **parent, **{"ce-subject": f"leaf-{i}"})
        heads = leaf.headers
        assert heads["ce-type"] == "dev.lifl.partial"
        assert (heads["ce-subject"], heads["ce-liflgoal"]) == ("round-7", "2")
        passed_on = {k: v for k, v in heads.items() if k.lower().startswith("ce-")}
        top = client.post("/", data=leaf.data, content_type=TENSORS, headers=passed_on)
    assert top.headers["ce-type"] == "dev.lifl.mean"
    assert top.headers["ce-subject"] == "round-7"
    assert "ce-liflparent" not in top.headers
    close(floats(top, schema), reference(schema, updates, [3, 5]))


def test_a_parent_of_unknown_size_is_refused(client, make_update, body):
    alone = {"ce-liflgoal": "1", "ce-liflparent": "round-7"}
    problem(event(client, body(make_update(1)), 1, 3, **alone), 400, "bad-event", "ce-liflparts")


def problem(answer, status, code, where=None):
    assert answer.mimetype == "application/problem+json"
    document = json.loads(answer.data)
    assert (answer.status_code, document["status"], document["code"]) == (status, status, code)
    assert document["detail"]
    assert document["type"].endswith(code)
    if where is not None:
        assert document["where"] == where


def test_refusals(client, schema, make_update, body):
    good = body(make_update(1))
    problem(post(client, "/", good), 400, "header-missing")
    problem(post(client, "/", good, "many"), 400, "bad-header", "LIFL-Num-Samples")
    for weight in (0, -1, "nan", "inf"):
        problem(post(client, "/", good, weight), 422, "bad-weight")
    problem(post(client, "/", good, 1, media="text/plain"), 415, "unknown-media")
    problem(post(client, "/", good[:-1], 1), 422, "bad-offsets", "b.weight")
    problem(post(client, "/", b"", 1), 411, "length-required")
    problem(post(client, "/", b"short", 1), 422, "truncated")
    problem(post(client, "/", bytes(4_000_001), 1), 413, "too-large")
    problem(post(client, "/?final=perhaps", good, 1), 400, "bad-final")
    problem(post(client, "/v1/partials/k?goal=-1", good, 1), 400, "bad-goal")
    spoiled = make_update(1)
    spoiled["b.weight"][5] = np.nan
    problem(post(client, "/", body(spoiled), 1), 422, "not-finite", "b.weight[5]")
    problem(event(client, good, 1, 3, **{"ce-subject": ""}), 400, "bad-event", "ce-subject")
    problem(client.get("/nothing"), 404, "not-found")
    problem(client.get("/"), 405, "method-not-allowed")


def test_bad_batches(client, make_update, body):
    good = body(make_update(1))
    whole = pack_frame(good, 1, SlotKind.UPDATE) + good
    problem(post(client, "/", whole + b"x", media=MEDIA_BATCH), 422, "truncated")
    problem(post(client, "/", whole[:-1], media=MEDIA_BATCH), 422, "truncated", "byte 24")
    with pytest.raises(UpdateError, match="cut off"):
        list(frames(memoryview(b"")))
    model = pack_frame(good, 1, SlotKind.MODEL) + good
    problem(post(client, "/", model, media=MEDIA_BATCH), 422, "unknown-kind")


def test_a_batch_is_added_whole_or_not_at_all(client, schema, make_update, body, reference):
    good = body(make_update(1))
    post(client, "/v1/partials/k", good, 2)
    other = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    strange = len(other).to_bytes(8, "little") + other + bytes(4)
    batch = b"".join(pack_frame(d, 1, SlotKind.UPDATE) + d for d in (good, strange))
    problem(post(client, "/v1/partials/k", batch, media=MEDIA_BATCH), 422, "wrong-schema")
    answer = client.post("/v1/partials/k/seal?final=1")
    assert answer.headers["LIFL-Items"] == "1"
    close(floats(answer, schema), reference(schema, [make_update(1)], [1]))


def test_open_sums_are_bounded_and_idle_ones_make_room(client, make_update, body, monkeypatch):
    good = body(make_update(1))
    for key in "ab":
        assert post(client, f"/v1/partials/{key}", good, 1).status_code == 202
    full = post(client, "/v1/partials/c", good, 1)
    problem(full, 503, "try-again")
    assert int(full.headers["Retry-After"]) >= 1
    assert client.delete("/v1/partials/a").status_code == 204
    assert client.delete("/v1/partials/a").status_code == 404
    assert post(client, "/v1/partials/c", good, 1).status_code == 202
    from functions.aggregator import vanilla

    now = vanilla.time.monotonic()
    monkeypatch.setattr(vanilla.time, "monotonic", lambda: now + IDLE_SECONDS + 1)
    assert post(client, "/v1/partials/d", good, 1).status_code == 202
    assert client.post("/v1/partials/b/seal").status_code == 404


def test_probes(client):
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200


class Idle:
    """A runtime that never registered."""

    alive, ready, open_sums = True, False, 3

    def __init__(self):
        from functions.aggregator.stats import Stats

        self.stats = Stats(objects=5)


def test_an_aggregator_of_a_job_has_no_second_entrance(make_update, body):
    env = {"LIFL_NAME": "agg-1", "LIFL_DOMAIN": "digits"}
    client = create_app(AggregatorSettings.from_env(env), Idle()).test_client()
    problem(post(client, "/", body(make_update(1)), 1), 404, "not-found")
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    metrics = client.get("/metrics").text
    assert "lifl_aggregator_objects_added_total 5.0" in metrics
    assert "lifl_aggregator_open_accumulators 3.0" in metrics
