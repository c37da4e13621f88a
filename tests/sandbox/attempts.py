"""Attempts to leave the sandbox, run within it: each gives the reason why it was held, or says what it reached.

The text of this file is the program; the first line of its input is JSON about the machine outside.
"""

import ctypes
import json
import os
import resource
import socket
import stat
import sys
from collections.abc import Callable
from typing import Any

OUTSIDE: dict[str, Any] = {}
LIBC = ctypes.CDLL(None, use_errno=True)
ATTEMPTS: dict[str, Callable[[], Any]] = {}


def attempt(function: Callable[[], Any]) -> Callable[[], Any]:
    ATTEMPTS[function.__name__] = function
    return function


def call(name: str, *arguments: Any) -> Any:
    """Call a function of libc; an error is raised."""
    if (result := getattr(LIBC, name)(*arguments)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def read(path: str) -> str:
    with open(path, "rb") as file:
        return f"{path}: {file.read(40)!r}"


def first(*ways: Callable[[], Any]) -> Any:
    """The first way that leads anywhere; the errors of all if none does."""
    errors = []
    for way in ways:
        try:
            return way()
        except OSError as error:
            errors.append(str(error))
    raise OSError("; ".join(errors))


def connected(family: int, address: Any, kind: int = socket.SOCK_STREAM) -> str:
    with socket.socket(family, kind) as one:
        one.settimeout(1)
        one.connect(address)
        return f"connected to {address!r}"


def written(path: str, text: str = "x") -> str:
    with open(path, "w") as file:
        file.write(text)
    return f"wrote {path}"


@attempt
def file_of_the_host() -> Any:
    return read(OUTSIDE["secret"])


@attempt
def passwords() -> Any:
    return first(lambda: read("/etc/shadow"), lambda: read("/etc/passwd"))


@attempt
def home() -> Any:
    return first(*(lambda path=path: f"{path}: {os.listdir(path)}" for path in ("/root", "/home", "/work", "/var")))


@attempt
def keys_in_the_environment() -> Any:
    found = [name for name in os.environ if name not in {"PATH", "HOME", "TMPDIR", "LANG", "PWD"}]
    return found or None


@attempt
def keys_of_other_processes() -> Any:
    for one in filter(str.isdigit, os.listdir("/proc")):
        for file in ("environ", "cmdline"):
            try:
                with open(f"/proc/{one}/{file}", "rb") as text:
                    if OUTSIDE["key"].encode() in text.read():
                        return f"the key is in /proc/{one}/{file}"
            except OSError:
                continue
    return None


@attempt
def processes_of_the_host() -> Any:
    found = [one for one in os.listdir("/proc") if one.isdigit()]
    return found if len(found) > 3 else None


@attempt
def root_of_the_first_process() -> Any:
    secret = OUTSIDE["secret"]
    return first(lambda: read(f"/proc/1/root{secret}"), lambda: read(f"/proc/1/cwd/../../..{secret}"))


@attempt
def another_root() -> Any:
    os.mkdir("jail")
    os.chroot("jail")
    return read(f"{'../' * 20}{OUTSIDE['secret']}")


@attempt
def link_to_the_host() -> Any:
    os.symlink(OUTSIDE["secret"], "link")
    return read("link")


@attempt
def hard_link() -> Any:
    os.link("/usr/bin/env", "linked")
    return "linked a file of the system"


@attempt
def loopback_of_the_host() -> Any:
    return connected(socket.AF_INET, ("127.0.0.1", OUTSIDE["port"]))


@attempt
def network() -> Any:
    return connected(socket.AF_INET, ("1.1.1.1", 53))


@attempt
def datagram() -> Any:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        return one.sendto(b"x", ("1.1.1.1", 53))


@attempt
def names() -> Any:
    return socket.getaddrinfo("example.org", 80)


@attempt
def abstract_socket() -> Any:
    return connected(socket.AF_UNIX, f"\0{OUTSIDE['abstract']}")


@attempt
def socket_file() -> Any:
    ways = (OUTSIDE["socket"], "/run/docker.sock", "/var/run/docker.sock", "/run/dbus/system_bus_socket")
    return first(*(lambda path=path: connected(socket.AF_UNIX, path) for path in ways))


@attempt
def virtual_machine_socket() -> Any:
    return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)


@attempt
def packet_socket() -> Any:
    return first(
        lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
        lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    )


@attempt
def mount() -> Any:
    return first(
        lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
        lambda: call("mount", b"none", b"/", None, 32, None),
        lambda: call("umount2", b"/usr", 2),
    )


@attempt
def new_namespaces() -> Any:
    return first(*(lambda flag=flag: call("unshare", flag) for flag in (0x10000000, 0x20000, 0x40000000)))


@attempt
def new_namespaces_by_clone() -> Any:
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    result = call("syscall", number, 0x10000000 | 17, 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    return "made a child in namespaces of its own"


@attempt
def root() -> Any:
    return first(lambda: os.setresuid(0, 0, 0) or "root", lambda: os.setresgid(0, 0, 0) or "root's group")


@attempt
def set_user_programs() -> Any:
    """A program with the bit that makes its caller root gives nothing."""
    if os.path.exists("/usr/bin/su") and os.stat("/usr/bin/su").st_mode & stat.S_ISUID:
        text = open("/proc/self/status").read()
        return None if "NoNewPrivs:\t1" in text else "programs may raise their rights"
    return None


@attempt
def capabilities() -> Any:
    lines = open("/proc/self/status").read().splitlines()
    return [line for line in lines if line.startswith("Cap") and int(line.split()[1], 16)] or None


@attempt
def tracing() -> Any:
    return call("ptrace", 16, 1, 0, 0)


@attempt
def the_system() -> Any:
    paths = ("/usr/bin/x", "/usr/x", "/etc/x", "/bin/x", "/lib/x", "/x", "/dev/x", "/usr/bin/env")
    return first(*(lambda path=path: written(path) for path in paths))


@attempt
def the_kernel() -> Any:
    return first(
        lambda: written("/proc/sys/kernel/core_pattern", "|/tmp/x"),
        lambda: written("/proc/sysrq-trigger", "b"),
        lambda: written("/proc/self/oom_score_adj", "-1000"),
        lambda: written("/proc/sys/vm/drop_caches", "3"),
    )


@attempt
def devices() -> Any:
    return first(
        lambda: os.mknod("disk", 0o660 | stat.S_IFBLK, os.makedev(8, 0)),
        *(lambda path=path: read(path) for path in ("/dev/vda", "/dev/sda", "/dev/mem", "/dev/kmsg", "/dev/kvm")),
    )


@attempt
def system_tree() -> Any:
    return first(lambda: os.listdir("/sys"), lambda: os.listdir("/run"), lambda: os.listdir("/boot"))


@attempt
def signals() -> Any:
    """The first process stays alive, and none of the host is in reach."""
    for number in (9, 19):
        for one in (1, os.getppid()):
            try:
                os.kill(one, number)
            except OSError:
                continue
    return first(lambda: os.kill(OUTSIDE["process"], 0) or "a process of the host takes signals")


@attempt
def inherited_descriptors() -> Any:
    found = {one: os.readlink(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd") if int(one) > 2}
    return {one: path for one, path in found.items() if not path.startswith("/proc/")} or None


@attempt
def standard_input_as_a_file() -> Any:
    return first(lambda: os.write(0, b"x" * 100), lambda: os.ftruncate(0, 10**9), lambda: os.lseek(0, 0, 0))


@attempt
def kernel_keys() -> Any:
    return call("syscall", {"x86_64": 250, "aarch64": 219}[os.uname().machine], 0, -3, 1)


@attempt
def memory_without_an_owner() -> Any:
    return first(lambda: os.memfd_create("x"), lambda: call("shmget", 0, 10**9, 0o1600))


@attempt
def kernel_programs() -> Any:
    numbers = {"x86_64": (321, 298, 425, 323), "aarch64": (280, 241, 425, 282)}[os.uname().machine]
    return first(*(lambda number=number: call("syscall", number, 0, 0, 0, 0, 0) for number in numbers))


@attempt
def typing_into_the_terminal() -> Any:
    import fcntl

    def typed(path: str) -> Any:
        return fcntl.ioctl(os.open(path, os.O_RDWR), 0x5412, b"x")

    return first(lambda: typed("/dev/tty"), lambda: typed("/dev/ptmx"), lambda: fcntl.ioctl(0, 0x5412, b"x"))


@attempt
def name_and_clock() -> Any:
    import time

    return first(
        lambda: call("sethostname", b"x", 1),
        lambda: time.clock_settime(time.CLOCK_REALTIME, 0) or "set the clock",
    )


@attempt
def raised_limits() -> Any:
    def raised(kind: int) -> str:
        resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return f"raised limit {kind}"

    try:
        return first(*(lambda kind=kind: raised(kind) for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_DATA)))
    except ValueError as error:
        return str(error) if "not allowed" not in str(error) else None


@attempt
def higher_priority() -> Any:
    return first(lambda: os.setpriority(os.PRIO_PROCESS, 0, -10) or "a higher priority")


def main() -> None:
    OUTSIDE.update(json.loads(sys.stdin.readline()))
    found = {}
    for name, function in ATTEMPTS.items():
        try:
            reached = function()
            found[name] = {"reached": None if reached is None else str(reached), "held": "nothing there"}
        except (OSError, PermissionError) as error:
            found[name] = {"reached": None, "held": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
