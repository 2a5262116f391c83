"""A job's function that turned against the others; run with ``python -c`` as that job's user.

Nothing but the standard library: it runs under whatever interpreter that user can reach.
It reads one JSON request a line from its standard input and answers with one a line; the
first is what each attempt met: the name of an errno, or "ok".
"""

import array
import ctypes
import errno
import json
import os
import pathlib
import socket
import struct
import sys
import urllib.error
import urllib.request

PTRACE_ATTACH, PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 16, 17, 0x4206, 0x4207
WALL = 0x40000000
SYS_PIDFD_GETFD = 438  # the same on every architecture
LIBC = ctypes.CDLL(None, use_errno=True)
DESCRIPTOR = struct.Struct("<BBHIII")


def name_of(error):
    return errno.errorcode.get(error.errno, str(error))


def met(attempt, *args):
    """Return "ok" or the errno's name that ``attempt`` met."""
    try:
        attempt(*args)
    except OSError as error:
        return name_of(error)
    return "ok"


def call(function, *args):
    if function(*args) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def open_and_close(path, flags=os.O_RDONLY):
    os.close(os.open(path, flags))


# -- another process's memory and descriptors --------------------------------------------


def open_fd(pid, fd):
    open_and_close(f"/proc/{pid}/fd/{fd}", os.O_RDWR)


def get_fd(pid, fd):
    pidfd = os.pidfd_open(pid)
    try:
        call(LIBC.syscall, SYS_PIDFD_GETFD, pidfd, fd, 0)
    finally:
        os.close(pidfd)


def trace(pid, how):
    call(LIBC.ptrace, how, pid, 0, 0)
    if how == PTRACE_SEIZE:
        call(LIBC.ptrace, PTRACE_INTERRUPT, pid, 0, 0)
    os.waitpid(pid, WALL)
    call(LIBC.ptrace, PTRACE_DETACH, pid, 0, 0)


def memory(pid, move):
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    own = ctypes.create_string_buffer(8)
    here = Vector(ctypes.addressof(own), 8)
    call(move, pid, ctypes.byref(here), 1, ctypes.byref(here), 1, 0)


def processes(request):
    """Attack each process; ``fd`` is one of its descriptors."""
    found = {}
    for victim in request["victims"]:
        pid, fd = victim["pid"], victim["fd"]
        found[victim["name"]] = {
            "list fds": met(os.listdir, f"/proc/{pid}/fd"),
            "open fd": met(open_fd, pid, fd),
            "pidfd_getfd": met(get_fd, pid, fd),
            "mem": met(open_and_close, f"/proc/{pid}/mem", os.O_RDWR),
            "map_files": met(os.listdir, f"/proc/{pid}/map_files"),
            "environ": met(open_and_close, f"/proc/{pid}/environ"),
            "attach": met(trace, pid, PTRACE_ATTACH),
            "seize": met(trace, pid, PTRACE_SEIZE),
            "vm_readv": met(memory, pid, LIBC.process_vm_readv),
            "vm_writev": met(memory, pid, LIBC.process_vm_writev),
        }
    return found


def hold(request):
    """Be a victim: hold a memfd, and let whoever may enter."""
    return os.memfd_create("secret")


def signals(request):
    """Ask for nothing but the right to send a signal."""
    return {str(pid): met(os.kill, pid, 0) for pid in request["pids"]}


# -- files, sockets, servers ---------------------------------------------------------------


def files(request):
    """Open each path as what it is."""
    found = {}
    for path in request["paths"]:
        if path.endswith(".sock"):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            found[path] = met(sock.connect, path)
            sock.close()
        else:
            found[path] = met(open_and_close, path)
    return found


def bpf_objects(request):
    """Ask the kernel for BPF programs and maps by number, as bpf(2) can."""
    attributes = ctypes.create_string_buffer(struct.pack("<III", 0, 0, 0), 12)
    number, commands = request["syscall"], request["commands"]
    return {str(c): met(call, LIBC.syscall, number, c, attributes, 12) for c in commands}


def urls(request):
    """Return each [method, url, token] with the status it got; a token may be empty."""
    found = []
    for method, url, token in request["requests"]:
        headers = {"Authorization": "Bearer " + token} if token else {}
        asked = urllib.request.Request(url, method=method, headers=headers, data=b"{}")
        if method == "GET":
            asked.data = None
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                found.append([method, url, token, answer.status])
        except urllib.error.HTTPError as error:
            found.append([method, url, token, error.code])
    return found


# -- the agent and the data plane ------------------------------------------------------------


class Member:
    """A registration, as ``lifl.dataplane.registration`` makes one, without its manners."""

    def __init__(self, path, fds=(), **request):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(10)
        self.sock.connect(path)
        self.say(fds, op="register", **request)
        raw, ancillary, _, _ = self.sock.recvmsg(1 << 18, socket.CMSG_SPACE(32))
        self.told = json.loads(raw) if raw else {"ok": False, "code": "hung-up"}
        self.fds = array.array("i")
        for _, _, data in ancillary:
            self.fds.frombytes(data)

    def say(self, fds=(), raw=None, **message):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([raw or json.dumps(message).encode()], rights)


MEMBERS = []


def register(request):
    """Register; what is granted is kept open."""
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(request.pop("junk", 0))]
    member = Member(request.pop("path"), fds, **request)
    for fd in fds:
        os.close(fd)
    if member.told["ok"]:
        MEMBERS.append(member)
    return {**member.told, "fds": len(member.fds)}


def garble(request):
    """Say to the agent what no function would; each on a connection of its own."""
    member = MEMBERS[-1]
    for ref in ((-1, 1), (1 << 40, 1), (0, -1), (0, 1 << 40), (3, 7)):
        member.say(op="dispatch", slot=ref[0], generation=ref[1])
    strangers = (b"\xff\xfe", b"[]", b"{", b"[" * 100000, b'{"op":"register"}', b'{"op":1}')
    for raw in strangers:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(request["path"])
        sock.send(raw)
        sock.close()
    return len(strangers)


def send(request):
    """Send crafted descriptors on the data socket; return how many met what."""
    member, found = MEMBERS[-1], {}
    tx = socket.socket(fileno=os.dup(member.fds[1]))
    tx.settimeout(5)
    for sequence, fields in enumerate(request["descriptors"]):
        raw = DESCRIPTOR.pack(*fields) + bytes.fromhex(request.get("more", ""))
        raw = raw[: request.get("cut", len(raw))]
        if member.told["dataplane"] == "socket":
            what = relay(tx, sequence, raw)
        else:
            what = met(tx.send, raw, socket.MSG_NOSIGNAL)
        found[what] = found.get(what, 0) + 1
    tx.close()
    return found


def relay(tx, sequence, raw):
    """Send as the relay's channel does; return the agent's verdict."""
    tx.send(struct.pack("<I", sequence) + raw)
    answered, reason = struct.unpack("<II", tx.recv(8))
    assert answered == sequence
    return f"verdict {reason}" if reason else "ok"


def arrived(request):
    """Return how many bytes wait on this function's own data socket."""
    rx = socket.socket(fileno=os.dup(MEMBERS[-1].fds[2 if request["relay"] else 1]))
    rx.setblocking(False)
    count = 0
    try:
        while data := rx.recv(4096):
            count += len(data)
    except OSError:
        pass
    rx.close()
    return count


def pool(request):
    """Try to resize the pool it was given, and to have it mapped as another's."""
    fd = MEMBERS[-1].fds[0]
    size = os.fstat(fd).st_size
    return {
        "name": str(pathlib.Path(f"/proc/self/fd/{fd}").readlink()),
        "shrink": met(os.ftruncate, fd, size // 2),
        "grow": met(os.ftruncate, fd, size * 2),
        "unseal": met(seal_more, fd),
    }


def seal_more(fd):
    import fcntl

    fcntl.fcntl(fd, 1033, 0x0010)  # F_ADD_SEALS, F_SEAL_FUTURE_WRITE: would stop the others


def scribble(request):
    """Fill the start of the pool, its slot table, with ``byte``; or hold its lock."""
    import fcntl

    fd = MEMBERS[-1].fds[0]
    if request["how"] == "lock":
        fcntl.lockf(fd, fcntl.LOCK_EX, 1)
    else:
        os.pwrite(fd, bytes([request["byte"]]) * request["length"], request["at"])
    return "ok"


def leave(request):
    """Close everything."""
    for member in MEMBERS:
        for fd in member.fds:
            os.close(fd)
        member.sock.close()
    MEMBERS.clear()
    return "ok"


def main():
    for line in sys.stdin:
        request = json.loads(line)
        answer = globals()[request.pop("do")](request)
        print(json.dumps(answer), flush=True)


main()
