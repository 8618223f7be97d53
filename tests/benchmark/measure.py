"""What the benchmarks of the data plane share: a quiet network, the servers, the clients, the CPU, the table.

Everything runs in a network namespace of its own with reno as congestion control: what clouds set (bbr) paces even the
loopback device, and then measures its own timers. Both sides of a comparison run in the same minute, in turns, and
their ratio is what counts; a machine that does other things as well moves both.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from mirror.oci import Digest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
GIGABYTE = 10**9
MEGABYTE = 10**6
START_S = 20.0
RUN_S = 60.0
APART = ("taskset", "--cpu-list", str(max(os.sched_getaffinity(0))))
"""In front of a client that measures latency: it stays on one core. When all cores are busy, it would else wait for the
end of a server's time slice, some milliseconds, whoever the server is."""
BESIDE = (*APART, "nice", "-n", "19")
"""In front of a client that makes load while another one measures: on the same core, which it leaves to that one."""
_INSIDE = "SKVALLER_BENCHMARK_NAMESPACE"


def in_quiet_network(module: str) -> None:
    """Go on in a network namespace with reno; starts this program again (as root) if it is not in one."""
    if _INSIDE not in os.environ:
        command = ["unshare", "--net", sys.executable, "-m", module, *sys.argv[1:]]
        os.execvpe(command[0], command, {**os.environ, _INSIDE: "1"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text("reno")


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """A directory for blobs and programs, on the disk, removed in the end."""
    with tempfile.TemporaryDirectory(prefix="skvaller-benchmark-") as name:
        yield Path(name)


def compile_c(name: str, directory: Path) -> Path:
    """Compile one of the clients beside this file."""
    program = directory / name
    subprocess.run(["gcc", "-O2", "-Wall", "-o", program, HERE / f"{name}.c"], check=True)
    return program


def compile_go(directory: Path) -> Path:
    """Compile Go's reverse proxy."""
    program = directory / "proxy"
    environment = {**os.environ, "GO111MODULE": "off"}
    subprocess.run(["go", "build", "-o", program, HERE / "proxy" / "main.go"], check=True, env=environment)
    return program


def make_blob(layout: Path, size: int, seed: int) -> Digest:
    """A blob of pseudo-random bytes in an image layout."""
    directory = layout / "blobs" / "sha256"
    directory.mkdir(parents=True, exist_ok=True)
    block = random.Random(seed).randbytes(MEGABYTE)
    sha256 = hashlib.sha256()
    temporary = directory.parent / "new"
    with temporary.open("wb") as file:
        for start in range(0, size, MEGABYTE):
            part = (start.to_bytes(8, "big") + block)[: min(MEGABYTE, size - start)]
            file.write(part)
            sha256.update(part)
        os.fsync(file.fileno())
    digest = Digest("sha256", sha256.hexdigest())
    temporary.rename(directory / digest.hex)
    return digest


@dataclass
class Server:
    """A server under test: its process, and the port on the loopback address where it answers."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        """The CPU seconds of all threads of its processes until now."""
        return (
            sum(_thread_ns(task) for pid in _tree(self.process.pid) for task in Path(f"/proc/{pid}/task").iterdir())
            / 1e9
        )

    def stop(self) -> None:
        """End it, and what it started."""
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _thread_ns(task: Path) -> int:
    with contextlib.suppress(OSError):
        return int((task / "schedstat").read_text().split()[0])
    return 0


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                found += _tree(int(child))
    return found


@contextlib.contextmanager
def server(name: str, port: int, *command: str | Path) -> Iterator[Server]:
    """Start a server and wait until it listens."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    started = Server(name, port, process)
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{name} does not listen on port {port}") from None
                time.sleep(0.05)
        yield started
    finally:
        started.stop()


@contextlib.contextmanager
def nginx(name: str, port: int, directory: Path, location: str, extra: str = "") -> Iterator[Server]:
    """An nginx of one worker with sendfile, set up for its best."""
    if shutil.which("nginx") is None:
        raise SystemExit("nginx is missing: apt install nginx-light")
    home = directory / name.replace(" ", "-")
    home.mkdir()
    configuration = home / "nginx.conf"
    configuration.write_text(
        f"daemon off; user root; worker_processes 1; pid {home}/pid; error_log {home}/error;"
        "events { worker_connections 4096; }"
        f"http {{ access_log off; sendfile on; keepalive_requests 1000000; default_type application/octet-stream;"
        f"client_body_temp_path {home}/a; proxy_temp_path {home}/b; fastcgi_temp_path {home}/c;"
        f"uwsgi_temp_path {home}/d; scgi_temp_path {home}/e; {extra}"
        f"server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ {location} }} }} }}"
    )
    with server(name, port, "nginx", "-p", home, "-c", configuration, "-e", home / "error") as started:
        yield started


@dataclass
class Figures:
    """What was measured of one server: GB/s and CPU-seconds per GB, one entry a round."""

    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def gb_per_s(self) -> float:
        """The median."""
        return statistics.median(self.rate)

    @property
    def cpu_s_per_gb(self) -> float:
        """The median."""
        return statistics.median(self.cpu)


def download_endlessly(client: Path, server: Server, path: str) -> subprocess.Popen[bytes]:
    """Keep one connection of a server busy until the process is ended."""
    command: list[str | Path] = [*BESIDE, client, "1", "1000000", str(server.port), path]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def download(client: Path, server: Server, path: str, connections: int, downloads: int) -> tuple[float, float]:
    """GB/s, and CPU-seconds of the server per GB."""
    before = server.cpu_s()
    command: list[str | Path] = [client, str(connections), str(downloads), str(server.port), path]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=RUN_S).stdout
    size, seconds = output.split()
    return int(size) / GIGABYTE / float(seconds), (server.cpu_s() - before) / (int(size) / GIGABYTE)


def compare(servers: Sequence[Server], rounds: int, run: Callable[[Server], tuple[float, float]]) -> dict[str, Figures]:
    """Let servers take turns, `rounds` times after one that does not count."""
    figures = {each.name: Figures() for each in servers}
    for number in range(rounds + 1):
        for each in servers:
            rate, cpu = run(each)
            if number:
                figures[each.name].rate.append(rate)
                figures[each.name].cpu.append(cpu)
    return figures


class Report:
    """Prints lines, and remembers whether every figure kept to its budget."""

    def __init__(self) -> None:
        self.kept = True

    def figures(self, title: str, figures: dict[str, Figures]) -> None:
        """What was measured, as a table."""
        print(f"\n{title}\n{'':24}{'GB/s':>8}{'CPU-s/GB':>10}")
        for name, each in figures.items():
            print(f"{name:24}{each.gb_per_s:8.2f}{each.cpu_s_per_gb:10.3f}", flush=True)

    def at_least(self, what: str, value: float, budget: float) -> None:
        """A figure that must not be smaller than its budget."""
        self._line(what, value, f">= {budget:g}", kept=value >= budget)

    def at_most(self, what: str, value: float, budget: float) -> None:
        """A figure that must not be larger than its budget."""
        self._line(what, value, f"<= {budget:g}", kept=value <= budget)

    def end(self) -> NoReturn:
        """End the program: 0 when all budgets were kept."""
        sys.exit(0 if self.kept else 1)

    def _line(self, what: str, value: float, budget: str, *, kept: bool) -> None:
        print(f"  {what}: {value:.2f} (budget {budget}){'' if kept else '  MISSED'}", flush=True)
        self.kept = self.kept and kept
