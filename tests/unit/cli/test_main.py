"""The command line without a platform: wording, exit codes, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from lifl import auth
from lifl.cli import main as entry
from lifl.cli import output
from lifl.client.http import HttpError
from lifl.errors import ConfigError, LiflError, Unavailable
from lifl.platform import doctor
from lifl.platform.paths import Paths, write_text
from lifl.platform.running import AlreadyRunning, NotRunning

Lifl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lifl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Lifl:
    """Run the command with an empty LIFL_HOME; return exit code, stdout and stderr."""
    monkeypatch.setenv("LIFL_HOME", str(tmp_path))
    for name in ("LIFL_GATEWAY", "LIFL_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lifl", *arguments])
        code: object = 0
        try:
            entry.main()
        except SystemExit as e:
            code = e.code
        captured = capsys.readouterr()
        return int(str(code or 0)), captured.out, captured.err

    return run


def test_help_names_the_commands_and_the_exit_codes() -> None:
    out = CliRunner().invoke(entry.cli, ["--help"]).output
    for word in ("up", "down", "status", "job", "doctor", "logs", "completion", "Exit codes"):
        assert word in out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), output.USAGE),
        (NotRunning("x"), output.NOT_RUNNING),
        (Unavailable("x"), output.NOT_RUNNING),
        (HttpError(404, {}), output.NOT_FOUND),
        (HttpError(409, {}), output.REFUSED),
        (AlreadyRunning("x"), output.REFUSED),
        (LiflError("x"), output.FAILED),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error: LiflError, code: int) -> None:
    assert output.exit_code(error) == code


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["status"], 3, "no platform runs"),
        (["job", "list"], 3, "lifl up"),
        (["job", "submit", "nowhere.yaml"], 2, "No such file"),
        (["job", "token", "digits", "c1"], 3, "lifl up"),
        (["no-such-command"], 2, "No such command"),
        (["up", "--nodes", "0"], 2, "--nodes"),
        (["logs", "agent-0"], 4, "no log"),
        (["job", "list", "--gateway", "http://127.0.0.1:1"], 3, "no answer"),
    ],
)
def test_failures_end_with_a_sentence_and_their_code(
    lifl: Lifl, arguments: list[str], code: int, said: str
) -> None:
    if arguments[:2] == ["job", "submit"]:
        arguments = [*arguments, "--gateway", "http://127.0.0.1:1"]
    got, _, err = lifl(*arguments)
    assert got == code
    assert said in err
    assert "Traceback" not in err


def test_down_without_a_platform_is_no_error(lifl: Lifl) -> None:
    assert lifl("down") == (0, "nothing was running\n", "")


def test_a_wrong_job_file_says_what_is_wrong(lifl: Lifl, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    for text, said in (
        ("a: [", "is not YAML"),
        ("- a", "no mapping"),
        ("spec: {}", "spec.model"),
        ("spec: {model: {path: gone.safetensors}}", "gone.safetensors"),
        ("spec: {model: {url: 'file:///etc/passwd'}}", "neither http"),
    ):
        path.write_text(text)
        code, _, err = lifl("job", "submit", str(path), "--gateway", "http://127.0.0.1:1")
        assert code == output.USAGE
        assert said in err.replace("\n", "")


def test_a_client_token_is_made_from_the_jobs_key(lifl: Lifl, tmp_path: Path) -> None:
    key = bytes(range(32))
    (tmp_path / "keys").mkdir()
    write_text(tmp_path / "keys" / "digits.key", key.hex())
    code, out, _ = lifl("job", "token", "digits", "c1", "--gateway", "http://127.0.0.1:1")
    assert code == 0
    assert auth.verify(out.strip(), key, "digits", "client") == "c1"
    code, _, err = lifl("job", "token", "other", "c1", "--gateway", "http://127.0.0.1:1")
    assert (code, "not submitted from here" in err.replace("\n", " ")) == (2, True)


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_doctor_says_what_lacks_and_its_code_whether_ebpf_works(
    lifl: Lifl, monkeypatch: pytest.MonkeyPatch, ok: bool, code: int
) -> None:
    found = [doctor.Check("bcc", ok, "found it", "apt-get install python3-bpfcc", "ebpf")]
    monkeypatch.setattr(doctor, "checks", lambda: found)
    got, out, _ = lifl("doctor", "--json")
    assert got == code
    assert json.loads(out) == doctor.to_json(found)
    got, out, _ = lifl("doctor")
    assert got == code
    assert ("apt-get" in out) is not ok
    assert f"data plane: {'ebpf' if ok else 'socket'}" in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(lifl: Lifl, shell: str) -> None:
    code, out, _ = lifl("completion", shell)
    assert code == 0
    assert "_LIFL_COMPLETE" in out


def test_logs_lists_and_shows(lifl: Lifl, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.create([])
    paths.log("agent-0").write_text("one\ntwo\n")
    assert lifl("logs") == (0, "agent-0\n", "")
    assert lifl("logs", "agent-0", "-n", "1") == (0, "two\n", "")
