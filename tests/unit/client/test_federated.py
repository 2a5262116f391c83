"""The SDK against a gateway that fails in every way it can."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from lifl.client import FederatedClient, HttpError, Retry, Round, download
from lifl.errors import Unavailable, UpdateError

Join = Callable[..., FederatedClient]
W = np.arange(50_000, dtype=np.float32)


def state(value: float = 1.0) -> dict[str, np.ndarray[Any, Any]]:
    return {"w": np.full(50_000, value, np.float32), "n": np.array(4, np.int64)}


def only(client: FederatedClient) -> Round:
    return next(client.rounds())


def once(action: Callable[[Any], None], command: str = "POST") -> Callable[[Any], bool]:
    left = [1]

    def fault(handler: Any) -> bool:
        if handler.command != command or not left:
            return False
        left.pop()
        action(handler)
        return True

    return fault


def test_five_lines(gateway: Any, join: Join) -> None:
    gateway.task(1)
    gateway.task(1, your_update="accepted")
    gateway.task(2)
    gateway.task(2, "done")
    numbers = []
    with join() as fl:
        for round in fl.rounds():
            arrays = round.model()
            assert np.array_equal(arrays["w"], W)
            assert round.config == {"epochs": 2}
            receipt = round.submit(state(round.number), num_samples=60, metrics={"loss": 0.5})
            assert receipt == (True, False, 11, "", "")
            numbers.append(round.number)
    assert (numbers, fl.state) == ([1, 2], "done")
    assert [p.get("after") for p in gateway.polls()] == [None, "1", "1", "2"]
    path, headers, body = gateway.uploads[1]
    assert path == "/v1/jobs/digits/rounds/2/updates"
    assert body == save(state(2.0))
    assert headers["Content-Length"] == str(len(body))
    assert "Transfer-Encoding" not in headers
    assert headers["Content-Type"] == "application/vnd.safetensors"
    assert headers["Authorization"] == "Bearer t"
    assert headers["LIFL-Client"] == "c1"
    assert headers["LIFL-Num-Samples"] == "60"
    assert headers["LIFL-Base-Version"] == "7"
    assert headers["LIFL-Update-Type"] == "weights"
    assert headers["LIFL-Metrics"] == '{"loss":0.5}'


def test_torch_state_dicts(gateway: Any, join: Join) -> None:
    gateway.model = save(
        {
            "weight": np.ones(3, np.float32),
            "bias": np.zeros(3, np.float32),
            "running_mean": np.zeros(3, np.float32),
            "running_var": np.ones(3, np.float32),
            "num_batches_tracked": np.array(5, np.int64),
        }
    )
    gateway.task(1)
    module = torch.nn.BatchNorm1d(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        round = only(join())
        round.load_into(module)
    assert module.num_batches_tracked == 5
    module(torch.randn(4, 3))
    round.submit(module.state_dict(), num_samples=4)
    got = load(gateway.uploads[0][2])
    assert got["num_batches_tracked"] == 6
    assert np.array_equal(got["running_mean"], module.running_mean.numpy())


def test_bfloat16_tensors_are_sent_as_such(gateway: Any, join: Join) -> None:
    gateway.model = save({"w": np.ones(2, np.float32)})
    gateway.task(1)
    only(join()).submit({"w": torch.tensor([1.5, -2.0]).bfloat16()}, num_samples=1)
    body = gateway.uploads[0][2]
    assert b'"BF16"' in body
    assert body.endswith(bytes.fromhex("c03f00c0"))


def test_the_models_arrays_are_read_only_views(gateway: Any, join: Join) -> None:
    gateway.task(1)
    round = only(join())
    arrays = round.model()
    with pytest.raises(ValueError, match="read-only"):
        arrays["w"][0] = 5.0
    assert np.shares_memory(arrays["w"], round.model()["w"])


def test_the_same_version_is_fetched_once(gateway: Any, join: Join) -> None:
    gateway.task(1)
    gateway.task(2)
    rounds = join().rounds()
    next(rounds)
    next(rounds)
    assert sum("/model" in p for p in gateway.paths("GET")) == 1


def test_the_latest_model_by_etag(gateway: Any, join: Join) -> None:
    fl = join()
    version, first = fl.latest()
    assert version == 7
    assert np.shares_memory(fl.latest()[1]["w"], first["w"])
    assert gateway.requests[-1][2]["If-None-Match"] == '"digits-7"'
    gateway.version = 8
    gateway.model = save({"w": W + 1, "n": np.array(3)})
    version, second = fl.latest()
    assert version == 8
    assert np.array_equal(second["w"], W + 1)
    assert np.array_equal(first["w"], W)


def test_memory_of_a_model_nobody_looks_at_is_used_again(gateway: Any, join: Join) -> None:
    fl = join()
    address = fl.latest()[1]["w"].ctypes.data
    gc.collect()
    gateway.version = 8
    assert fl.latest()[1]["w"].ctypes.data == address


def test_a_broken_download_goes_on_where_it_broke(
    gateway: Any, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PIECE_BYTES", 16_384)
    gateway.task(1)

    def half(handler: Any) -> bool:
        if "/model" not in handler.path or handler.headers.get("Range"):
            return False
        handler.send_response(200)
        handler.send_header("ETag", '"digits-7"')
        handler.send_header("Content-Length", str(len(gateway.model)))
        handler.end_headers()
        handler.wfile.write(gateway.model[:70_000])
        handler.cut()
        return True

    gateway.faults.append(half)
    assert np.array_equal(only(join()).model()["w"], W)
    _, _, headers = gateway.requests[-1]
    assert headers["Range"] == "bytes=65536-"


def test_a_download_restarts_if_the_model_changed_meanwhile(gateway: Any, join: Join) -> None:
    def half(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("ETag", '"digits-7"')
        handler.send_header("Content-Length", str(len(gateway.model)))
        handler.end_headers()
        handler.wfile.write(gateway.model[:70_000])
        handler.cut()
        gateway.version = 8
        gateway.model = save({"w": W * 2, "n": np.array(3)})

    gateway.faults.append(once(half, "GET"))
    version, arrays = join().latest()
    assert version == 8
    assert np.array_equal(arrays["w"], W * 2)


def test_busy_honours_retry_after(gateway: Any, join: Join, pauses: list[float]) -> None:
    gateway.task(1)

    def busy(handler: Any) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.json(503, {"code": "pool-full"}, Retry_After="3")

    gateway.faults.append(once(busy))
    assert only(join()).submit(state(), num_samples=1).accepted
    assert pauses == [6.0]


def test_cut_in_the_middle_of_an_upload(gateway: Any, join: Join) -> None:
    gateway.task(1)

    def cut(handler: Any) -> None:
        handler.rfile.read(1000)
        handler.cut()

    gateway.faults.append(once(cut))
    assert only(join()).submit(state(), num_samples=1).accepted
    assert gateway.uploads[0][2] == save(state())


def test_the_gateway_restarts(gateway: Any, join: Join, pauses: list[float]) -> None:
    gateway.task(1)
    gateway.task(2)
    fl = join()
    rounds = fl.rounds()
    first = next(rounds)
    gateway.stop()
    original = fl._retry.sleep

    def sleep(seconds: float) -> None:
        original(seconds)
        if len(pauses) == 3:
            gateway.start()

    object.__setattr__(fl._retry, "sleep", sleep)
    assert first.submit(state(), num_samples=1).accepted
    assert next(rounds).number == 2
    assert pauses[:3] == [1.0, 2.0, 4.0]


def test_a_silent_node_is_gone_round_by_the_gateway(gateway: Any, join: Join) -> None:
    gateway.task(1, upload_url="http://127.0.0.1:9/v1/jobs/digits/rounds/1/updates")
    assert only(join()).submit(state(), num_samples=1).accepted
    assert gateway.uploads[0][0] == "/v1/jobs/digits/rounds/1/updates"


def test_a_silent_node_is_replaced(gateway: Any, join: Join) -> None:
    gateway.task(1, upload_url="http://127.0.0.1:9/v1/jobs/digits/rounds/1/updates")
    gateway.task(1, upload_url=f"{gateway.url}/other/updates")
    assert only(join()).submit(state(), num_samples=1).accepted
    assert gateway.uploads[0][0] == "/other/updates"


def test_gateways_may_have_a_path_of_their_own(gateway: Any) -> None:
    first, second = (f"/v1/jobs/digits/rounds/{n}/updates" for n in (1, 2))
    gateway.task(1, upload_url=f"{gateway.url}/function/node-1{first}")
    gateway.task(2, upload_url=f"http://127.0.0.1:9/function/node-9{second}")
    retry = Retry(patience=60.0, sleep=lambda _: None)
    base = f"{gateway.url}/function/gateway"
    with FederatedClient(base, job="digits", client="c1", token="t", retry=retry) as client:
        assert only(client).submit(state(), num_samples=1).accepted
        assert only(client).submit(state(), num_samples=1).accepted
    assert all(p.startswith("/function/gateway/v1/jobs/digits/") for p in gateway.paths("GET"))
    placed, other_way = (path for path, _, _ in gateway.uploads)
    assert placed == f"/function/node-1{first}"
    assert other_way == f"/function/gateway{second}"  # its node is silent: any gateway takes it


def test_patience_ends(gateway: Any, join: Join, pauses: list[float]) -> None:
    gateway.task(1)
    round = only(join())
    gateway.faults.append(lambda handler: handler.cut() is None)
    with pytest.raises(Unavailable):
        round.submit(state(), num_samples=1)
    assert sum(pauses) <= 60.0
    assert max(pauses) == 8.0


@pytest.mark.parametrize("code", ["round-closed", "wrong-round", "not-selected"])
def test_conflicts_lead_to_the_next_round(gateway: Any, join: Join, code: str) -> None:
    gateway.task(1)
    gateway.task(2)
    rounds = join().rounds()
    gateway.answer = (409, {"code": code, "detail": "too late"})
    receipt = next(rounds).submit(state(), num_samples=1)
    assert (receipt.accepted, receipt.code, receipt.detail) == (False, code, "too late")
    assert next(rounds).number == 2


@pytest.mark.parametrize("code", ["round-not-open", "claim-gone"])
def test_a_conflict_that_passes_is_tried_again(
    gateway: Any, join: Join, pauses: list[float], code: str
) -> None:
    gateway.task(1)

    def planning(handler: Any) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.json(409, {"code": code, "detail": "poll again"})

    gateway.faults.append(once(planning))
    assert only(join()).submit(state(), num_samples=1).accepted
    assert len(pauses) == 1


def test_an_answer_lost_on_the_way_is_a_duplicate(gateway: Any, join: Join) -> None:
    gateway.task(1)

    def swallow(handler: Any) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        gateway.answer = (202, {"serial": 11, "duplicate": True})
        handler.cut()

    gateway.faults.append(once(swallow))
    receipt = only(join()).submit(state(), num_samples=1)
    assert (receipt.accepted, receipt.duplicate) == (True, True)


@pytest.mark.parametrize("status", [401, 403, 413, 415, 422])
def test_refusals_are_raised_at_once(
    gateway: Any, join: Join, pauses: list[float], status: int
) -> None:
    gateway.task(1)
    gateway.answer = (status, {"code": "no", "detail": "why", "where": "w"})
    with pytest.raises(HttpError) as caught:
        only(join()).submit(state(), num_samples=1)
    assert (caught.value.status, caught.value.code, caught.value.where) == (status, "no", "w")
    assert len(gateway.uploads) == 1
    assert pauses == []


def test_a_lost_update_is_sent_again(gateway: Any, join: Join) -> None:
    gateway.task(1)
    gateway.task(1, your_update="lost", upload_url=f"{gateway.url}/second/node")
    gateway.task(1, your_update="accepted")
    gateway.task(2)
    rounds = join(digest=True).rounds()
    next(rounds).submit(state(), num_samples=60)
    assert next(rounds).number == 2
    (_, first, body), (path, second, again) = gateway.uploads
    assert path == "/second/node"
    assert again == body
    ours = {k: v for k, v in first.items() if k.startswith(("LIFL", "Content"))}
    assert ours.items() <= second.items()
    assert "Content-Digest" in ours


def test_a_lost_update_whose_arrays_changed_is_trained_again(gateway: Any, join: Join) -> None:
    gateway.task(1)
    gateway.task(1, your_update="lost")
    rounds = join().rounds()
    arrays = state()
    next(rounds).submit(arrays, num_samples=1)
    arrays["w"][3] = 2.0
    assert next(rounds).number == 1
    assert len(gateway.uploads) == 1


def test_a_lost_update_of_another_process_is_trained_again(gateway: Any, join: Join) -> None:
    gateway.task(4, your_update="lost")
    assert only(join()).number == 4


def test_an_idle_job_is_not_polled_hot(gateway: Any, join: Join, pauses: list[float]) -> None:
    for _ in range(8):
        gateway.task(3, "waiting")
    gateway.task(3)
    assert only(join()).number == 3
    assert pauses[-1] == 8.0
    assert len(pauses) >= 5


def test_quick_rounds_are_not_slowed(gateway: Any, join: Join, pauses: list[float]) -> None:
    for number in range(1, 12):
        gateway.task(number)
    rounds = join().rounds()
    assert [next(rounds).number for _ in range(11)] == list(range(1, 12))
    assert pauses == []


def test_a_version_that_is_gone_is_not_an_error(gateway: Any, join: Join) -> None:
    gateway.task(1)
    gateway.task(2)
    gone = [True]

    def fault(handler: Any) -> bool:
        if "/model" in handler.path and gone:
            gone.pop()
            handler.json(404, {"code": "no-such-version"})
            return True
        return False

    gateway.faults.append(fault)
    assert only(join()).number == 2


def test_an_unknown_job_is_an_error(gateway: Any, join: Join) -> None:
    gateway.faults.append(lambda h: h.json(404, {"code": "no-such-job"}) is None)
    with pytest.raises(HttpError, match="404"):
        only(join())


def test_an_upload_that_no_route_leads_to_goes_another_way(
    gateway: Any, join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.task(1, upload_url=f"{gateway.url}/gone/updates")
    gateway.task(1)

    def unrouted(handler: Any) -> bool:
        if not handler.path.startswith("/gone/"):
            return False
        handler.json(404, {})
        return True

    gateway.faults.append(unrouted)
    assert only(join()).submit(state(), num_samples=1).accepted
    assert [path for path, _, _ in gateway.uploads] == ["/v1/jobs/digits/rounds/1/updates"]
    assert "no route" in caplog.text


def test_a_job_of_deltas_gets_differences(gateway: Any, join: Join) -> None:
    gateway.task(1, update_type="delta")
    round = only(join())
    round.submit({"w": W + 0.5, "n": np.array(9)}, num_samples=1)
    round.submit({"w": W, "n": np.array(9)}, num_samples=1, is_delta=True)
    first, second = (load(body) for _, _, body in gateway.uploads)
    assert np.array_equal(first["w"], np.full(50_000, 0.5, np.float32))
    assert first["n"] == 9
    assert np.array_equal(second["w"], W)
    assert gateway.uploads[0][1]["LIFL-Update-Type"] == "delta"


def test_unusable_updates_are_refused_before_they_are_sent(gateway: Any, join: Join) -> None:
    gateway.task(1)
    round = only(join())
    for bad, n, delta, code in [
        ({"w": W}, 1, False, "missing-tensor"),
        ({**state(), "x": W}, 1, False, "unknown-tensor"),
        ({**state(), "w": W[:-1]}, 1, False, "wrong-shape"),
        ({**state(), "n": np.array(1.0)}, 1, False, "wrong-dtype"),
        (state(), 0, False, "bad-num-samples"),
        (state(), 1, True, "wrong-update-type"),
    ]:
        with pytest.raises(UpdateError) as caught:
            round.submit(bad, num_samples=n, is_delta=delta)
        assert caught.value.code == code
    assert gateway.uploads == []
