"""Commands about one job, spoken to a gateway of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lifl import auth
from lifl.cli import jobs
from lifl.cli import main as entry
from lifl.platform.paths import write_text

KEY = bytes(range(32))
Answer = tuple[int, dict[str, Any]]


class Gateway:
    """Answers what a test says, and notes what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[Answer]] = {}
        self.asked: list[tuple[str, str, str, bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                outer.asked.append((self.command, self.path, token, body))
                answers = outer.answers[self.command, self.path]
                status, document = answers.pop(0) if len(answers) > 1 else answers[0]
                raw = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_PUT = do_DELETE = _serve

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    yield made
    made.close()


@pytest.fixture
def lifl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command with an empty LIFL_HOME; return exit code, stdout and stderr."""
    monkeypatch.setenv("LIFL_HOME", str(tmp_path))
    monkeypatch.setattr(jobs, "WATCH_SECONDS", 0.01)
    secrets = ("LIFL_JOB_KEY", "LIFL_PLATFORM_SECRET", "LIFL_PLATFORM_SECRET_FILE")
    for name in ("LIFL_GATEWAY", "LIFL_TOKEN", *secrets):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lifl", "job", *arguments])
        code: object = 0
        try:
            entry.main()
        except SystemExit as e:
            code = e.code
        captured = capsys.readouterr()
        return int(str(code or 0)), captured.out, captured.err.replace("\n", " ")

    return run


def keep_key(home: Path) -> Path:
    (home / "keys").mkdir()
    path = home / "keys" / "digits.key"
    write_text(path, KEY.hex())
    return path


# -- the key of a job that was submitted elsewhere --------------------------------


@pytest.mark.parametrize("way", ["option", "variable"])
def test_a_client_token_needs_nothing_but_the_key(lifl, monkeypatch, way) -> None:
    arguments = ["token", "digits", "c1"]
    if way == "option":
        arguments += ["--key", KEY.hex()]
    else:
        monkeypatch.setenv("LIFL_JOB_KEY", f"{KEY.hex()}\n")
    code, out, _ = lifl(*arguments)
    assert code == 0
    assert auth.verify(out.strip(), KEY, "digits", "client") == "c1"


def test_the_given_key_goes_before_the_kept_one(lifl, tmp_path) -> None:
    keep_key(tmp_path)
    other = bytes(32)
    _, out, _ = lifl("token", "digits", "c1", "--key", other.hex())
    assert auth.verify(out.strip(), other, "digits", "client") == "c1"


@pytest.mark.parametrize("key", ["xyz", "00" * 31, "not hex " * 8])
def test_what_is_no_key_is_refused_and_not_quoted(lifl, key) -> None:
    code, _, err = lifl("token", "digits", "c1", "--key", key)
    assert (code, "64 hex digits" in err, key in err) == (2, True, False)


# -- the platform's token ------------------------------------------------------------


@pytest.mark.parametrize("way", ["variable", "file"])
def test_the_platforms_token_is_made_of_its_secret(lifl, gateway, tmp_path, monkeypatch, way):
    secret = bytes(range(50, 82))
    (tmp_path / "state").mkdir()
    write_text(tmp_path / "state" / "platform.secret", "ab" * 32)  # another, local platform's
    if way == "variable":
        monkeypatch.setenv("LIFL_PLATFORM_SECRET", secret.hex())
    else:
        file = tmp_path / "secret"
        file.write_text(f"{secret.hex()}\n")
        monkeypatch.setenv("LIFL_PLATFORM_SECRET_FILE", str(file))
    gateway.answers["GET", "/v1/jobs"] = [(200, {"jobs": []})]
    code, _, err = lifl("list", "--gateway", gateway.url)
    assert code == 0, err
    code, _, _ = lifl("list", "--gateway", gateway.url, "--token", "mine")
    assert code == 0
    made, given = (token for _, _, token, _ in gateway.asked)
    assert (auth.verify(made, secret, auth.PLATFORM_AUDIENCE, "platform"), given) == ("cli", "mine")


def test_a_platforms_secret_that_is_none_is_not_quoted(lifl, gateway, monkeypatch) -> None:
    monkeypatch.setenv("LIFL_PLATFORM_SECRET", "topsecret")
    code, _, err = lifl("list", "--gateway", gateway.url)
    assert (code, "LIFL_PLATFORM_SECRET" in err, "topsecret" in err) == (2, True, False)
    assert not gateway.asked


# -- the initial model -------------------------------------------------------------


def test_a_model_is_sent_with_the_jobs_key(lifl, gateway, tmp_path) -> None:
    gateway.answers["PUT", "/v1/jobs/digits/model"] = [(201, {"job": "digits"})]
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"tensors" * 100_000)
    arguments = ("model", "digits", str(file), "--gateway", gateway.url, "--key", KEY.hex())
    code, out, _ = lifl(*arguments)
    assert (code, "lifl job watch digits" in out) == (0, True)
    ((_, _, token, body),) = gateway.asked
    assert body == b"tensors" * 100_000
    assert auth.verify(token, KEY, "digits", "submit") == "submitter"


def test_a_model_that_is_not_there_or_not_wanted(lifl, gateway, tmp_path) -> None:
    code, _, err = lifl("model", "digits", "nowhere.safetensors", "--gateway", gateway.url)
    assert (code, "nowhere.safetensors: No such file" in err) == (2, True)
    gateway.answers["PUT", "/v1/jobs/digits/model"] = [
        (409, {"code": "model-exists", "detail": "job digits has its model already"})
    ]
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    code, _, err = lifl("model", "digits", str(file), "--gateway", gateway.url)
    assert (code, "has its model already" in err) == (5, True)


def test_a_job_file_for_a_cluster_is_refused_here(lifl, gateway, tmp_path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("spec: {model: {configMap: {name: a, key: b}}}")
    code, _, err = lifl("submit", str(file), "--gateway", gateway.url)
    assert (code, "kubectl apply" in err) == (2, True)
    assert gateway.asked == []


# -- deleting ----------------------------------------------------------------------


def test_delete_waits_until_the_name_is_free(lifl, gateway, tmp_path) -> None:
    key = keep_key(tmp_path)
    gateway.answers["DELETE", "/v1/jobs/digits"] = [(200, {})]
    gateway.answers["GET", "/v1/jobs/digits"] = [
        (404, {"code": "job-deleted"}),
        (404, {"code": "job-deleted"}),
        (404, {"code": "no-such-job"}),
    ]
    code, out, _ = lifl("delete", "digits", "--gateway", gateway.url)
    assert (code, out) == (0, "digits is deleted\n")
    assert [m for m, *_ in gateway.asked] == ["DELETE", "GET", "GET", "GET"]
    assert not key.exists()


def test_delete_does_not_wait_for_ever(lifl, gateway, monkeypatch) -> None:
    monkeypatch.setattr(jobs, "DELETED_SECONDS", 0.05)
    gateway.answers["DELETE", "/v1/jobs/digits"] = [(200, {})]
    gateway.answers["GET", "/v1/jobs/digits"] = [(404, {"code": "job-deleted"})]
    code, out, _ = lifl("delete", "digits", "--gateway", gateway.url)
    assert (code, "nodes still hold" in out) == (0, True)


def test_delete_of_a_job_that_is_not_there(lifl, gateway, tmp_path) -> None:
    key = keep_key(tmp_path)
    gateway.answers["DELETE", "/v1/jobs/digits"] = [(404, {"code": "no-such-job"})]
    assert lifl("delete", "digits", "--gateway", gateway.url)[0] == 4
    assert key.exists()
