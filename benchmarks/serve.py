"""The reading room under load, each figure beside the one it must not exceed.

    python benchmarks/serve.py --cells FOLDER [--model BUNDLE] [--database postgresql://…] [--readers 50] [--json OUT]

one       one cell posted and answered, median of 100             < 60 ms
dropped   500 crops in requests of 24: first answers seen          < 2 s
          all answered, against `Predictor.stream` on the files    < 1.5 x
paging    50 readers paging a case of 2,000 cells, one page and
          eight thumbnails a second each: 95th percentile          < 300 ms, no error
memory    growth of the server over the last 9,000 of 10,000
          requests                                                 < 16 MiB
reviews   50 readers who each say what a cell is once a second,
          while 5 people send pictures without a pause:
          95th percentile of a review                              < 500 ms, no error

The server is a process of its own, as in use; the load comes from this one, over sockets. What the model alone takes
is measured in turn with the server, half before and half after, and the processor time of both stands beside the
seconds: so the ratios mean something on a machine that has other work.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from leukoscope.inference.predictor import Predictor, load

PAGE = 100  # cells
_TOGETHER = 24  # files a request, as the page sends them


class Server:
    """A reading room in a process of its own, and a client that has signed in."""

    def __init__(self, data: Path, model: Path | None, database: str) -> None:
        command = [sys.executable, "-m", "leukoscope", "serve", "--data", str(data), "--port", "0", "--no-browser"]
        command += [*(["--model", str(model)] if model else []), *(["--database", database] if database else [])]
        self._log = (data.parent / "server.log").open("w")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout
        address = self.process.stdout.readline()
        found = re.match(r"(http://\S+?/)login#token=(\S+)", address)
        assert found, f"no address: {address!r}; see {self._log.name}"
        self.url = f"{found[1]}api/v1"
        self.client = self._connected()
        self.csrf = self.client.post("/session", json={"token": found[2]}).json()["csrf"]
        self.client.headers["X-CSRF-Token"] = self.csrf

    def _connected(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=120)

    def another(self) -> httpx2.Client:
        """Return another connection of the same reader."""
        client = self._connected()
        client.cookies, client.headers["X-CSRF-Token"] = self.client.cookies, self.csrf
        return client

    def case(self) -> int:
        """Make an empty case."""
        case: int = self.client.post("/cases", json={"name": "load"}).json()["id"]
        return case

    def send(self, case: int, files: list[Path], *, wait: float = 0) -> dict[str, Any]:
        """Send files into a case."""
        named = [("files", (path.name, path.read_bytes())) for path in files]
        answer = self.client.post(f"/cases/{case}/images?wait={wait}", files=named, data={"kind": "crops"})
        answer.raise_for_status()
        sent: dict[str, Any] = answer.json()
        assert not sent["refused"], sent["refused"][:3]
        return sent

    def done(self, case: int) -> int:
        """Return how many images of a case are analysed."""
        progress = self.client.get(f"/cases/{case}/progress").json()
        return int(progress["done"]) + int(progress["failed"])

    def processor(self) -> float:
        """Return the processor time that the server has used, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Return resident memory in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]

    def close(self) -> None:
        """End the server."""
        self.process.terminate()
        self.process.wait(30)
        self._log.close()


@contextlib.contextmanager
def opened(args: argparse.Namespace) -> Iterator[Server]:
    """Open a server on an empty folder, and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="leukoscope-load-"))
    server = Server(folder / "room", args.model, args.database)
    try:
        yield server
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


def one(server: Server, files: list[Path], predictor: Predictor) -> dict[str, Any]:
    """Post one cell and wait for its answer, and in turn ask the model alone, again and again."""
    case, posted, plain, used = server.case(), [], [], []
    for path in itertools.islice(itertools.cycle(files), 110):
        before = server.processor()
        started = time.perf_counter()
        assert server.send(case, [path], wait=10)["cells"]
        posted.append(time.perf_counter() - started)
        used.append(server.processor() - before)
        started = time.perf_counter()
        predictor.opinion(path)
        plain.append(time.perf_counter() - started)
    median, alone = (1000 * statistics.median(seconds[10:]) for seconds in (posted, plain))
    return {
        "median_ms": round(median, 1),
        "at_most": 60,
        "model_alone_ms": round(alone, 1),
        "ratio": round(median / alone, 2),
        "server_processor_ms": round(1000 * statistics.mean(used[10:]), 1),
    }


def dropped(server: Server, files: list[Path], predictor: Predictor) -> dict[str, Any]:
    """Drop 500 crops, and predict the same files plainly with the server idle: one half before, one half after."""
    half = len(files) // 2
    plain, plain_used = _plain(predictor, files[:half])
    case, used = server.case(), server.processor()
    started = time.perf_counter()
    with ThreadPoolExecutor(1) as beside:
        watching = beside.submit(_first_answer, server, case)
        for start in range(0, len(files), _TOGETHER):
            server.send(case, files[start : start + _TOGETHER])
        while server.done(case) < len(files):
            time.sleep(0.1)
        everything = time.perf_counter() - started
        first = watching.result() - started
    used = server.processor() - used
    more, more_used = _plain(predictor, files[half:])
    plain, plain_used = plain + more, plain_used + more_used
    return {
        "cells": len(files),
        "first_s": round(first, 2),
        "first_at_most": 2,
        "all_s": round(everything, 2),
        "plain_s": round(plain, 2),
        "ratio": round(everything / plain, 2),
        "ratio_at_most": 1.5,
        "processor_s": round(used, 1),
        "plain_processor_s": round(plain_used, 1),
        "processor_ratio": round(used / plain_used, 2),
    }


def _first_answer(server: Server, case: int) -> float:
    client = server.another()
    while not client.get(f"/cases/{case}/cells?limit=1").json()["counts"]["every"]:
        time.sleep(0.05)
    return time.perf_counter()


def _plain(predictor: Predictor, files: list[Path]) -> tuple[float, float]:
    """Return the seconds, and those of the processor, that the model alone takes for files."""
    started, used = time.perf_counter(), time.process_time()
    for _ in predictor.stream(enumerate(files)):
        pass
    return time.perf_counter() - started, time.process_time() - used


def paging(server: Server, files: list[Path], *, readers: int, seconds: float = 20) -> dict[str, Any]:
    """Let many readers page through one large case, each a page and eight thumbnails a second."""
    case = server.case()
    many = list(itertools.islice(itertools.cycle(files), 2000))
    for start in range(0, len(many), 200):
        server.send(case, many[start : start + 200])
    while server.done(case) < len(many):
        time.sleep(0.2)
    took: list[float] = []
    errors: list[str] = []
    used, began = server.processor(), time.perf_counter()
    until = began + seconds

    def read(number: int) -> None:
        client, page = server.another(), number * 37
        time.sleep(number / readers)
        while time.perf_counter() < until:
            turn = time.perf_counter()
            offset = PAGE * (page := page + 1) % 2000
            cells = _timed(client, f"/cases/{case}/cells?offset={offset}&limit={PAGE}", took, errors)
            for cell in (cells or {}).get("cells", [])[:8]:
                _timed(client, cell["thumbnail"].removeprefix("/api/v1"), took, errors)
            time.sleep(max(0.0, 1 - (time.perf_counter() - turn)))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used, lasted = server.processor() - used, time.perf_counter() - began
    p95 = statistics.quantiles(took, n=20)[-1]
    return {
        "readers": readers,
        "requests": len(took),
        "requests_per_s": round(len(took) / lasted),
        "errors": len(errors),
        "median_ms": round(1000 * statistics.median(took), 1),
        "p95_ms": round(1000 * p95, 1),
        "at_most": 300,
        "server_processor_ms": round(1000 * used / len(took), 2),
    }


def _timed(client: httpx2.Client, path: str, took: list[float], errors: list[str]) -> Any:
    started = time.perf_counter()
    try:
        answer = client.get(path)
        answer.raise_for_status()
    except httpx2.HTTPError as failed:
        errors.append(f"{path}: {failed}")
        return None
    finally:
        took.append(time.perf_counter() - started)
    return answer.json() if answer.headers["content-type"].startswith("application/json") else None


def reviews(
    server: Server, files: list[Path], *, readers: int, senders: int = 5, seconds: float = 30
) -> dict[str, Any]:
    """Let many people read while others send, and time each review; everybody reads a case of their own."""
    cases = [server.case() for _ in range(readers)]
    for number, case in enumerate(cases):
        server.send(case, [files[(number + step) % len(files)] for step in range(8)])
    while sum(server.done(case) for case in cases) < 8 * readers:
        time.sleep(0.2)
    took: list[float] = []
    errors: list[str] = []
    sent: list[int] = []
    used, until = server.processor(), time.perf_counter() + seconds
    reading = [partial(_read, server, case, number / readers) for number, case in enumerate(cases)]
    sending = [partial(_send, server, files, start=24 * number) for number in range(senders)]
    threads = [threading.Thread(target=each, args=(until, took, errors)) for each in reading]
    threads += [threading.Thread(target=each, args=(until, sent)) for each in sending]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = server.processor() - used
    p95 = statistics.quantiles(took, n=20)[-1]
    return {
        "readers": readers,
        "senders": senders,
        "reviews": len(took),
        "errors": len(errors),
        "sent": sum(sent),
        "median_ms": round(1000 * statistics.median(took), 1),
        "p95_ms": round(1000 * p95, 1),
        "at_most": 500,
        "max_ms": round(1000 * max(took), 1),
        "server_processor_s": round(used, 1),
        "load_average": round(os.getloadavg()[0], 1),
    }


def _read(  # noqa: PLR0917
    server: Server, case: int, wait: float, until: float, took: list[float], errors: list[str]
) -> None:
    """Say what a cell is, once a second."""
    client = server.another()
    cells = client.get(f"/cases/{case}/cells").json()["cells"]
    time.sleep(wait)
    for cell in itertools.cycle(cells):
        turn = time.perf_counter()
        if turn > until:
            return
        headers = {"If-Match": f'"{cell["etag"]}"'}
        answer = client.post(f"/cells/{cell['id']}/reviews", json={"label": "unsure"}, headers=headers)
        took.append(time.perf_counter() - turn)
        errors += [answer.text] if answer.status_code != 201 else []
        time.sleep(max(0.0, 1 - (time.perf_counter() - turn)))


def _send(server: Server, files: list[Path], until: float, sent: list[int], *, start: int) -> None:
    """Send pictures without a pause."""
    client, case = server.another(), server.case()
    for first in itertools.count(start, 24):
        if time.perf_counter() > until:
            return
        part = [files[(first + step) % len(files)] for step in range(24)]
        named = [("files", (path.name, path.read_bytes())) for path in part]
        answer = client.post(f"/cases/{case}/images", files=named, data={"kind": "crops"})
        sent.append(len(answer.json().get("accepted", [])))


def memory(server: Server, files: list[Path]) -> dict[str, Any]:
    """Send ten thousand requests of every kind and look at the server's memory."""
    case = server.case()
    server.send(case, files[:50], wait=30)
    cells = [cell["id"] for cell in server.client.get(f"/cases/{case}/cells").json()["cells"]]
    seen: list[float] = []
    for number in range(10_000):
        cell = cells[number % len(cells)]
        kind = number % 20
        if kind == 0:
            server.send(case, [files[number // 20 % len(files)]])
        elif kind == 1:
            seen = {"If-Match": server.client.get(f"/cells/{cell}").headers["etag"]}
            server.client.post(f"/cells/{cell}/reviews", json={"label": "unsure"}, headers=seen)
        elif kind < 6:
            server.client.get(f"/cells/{cell}/thumbnail?side=96")
        elif kind < 12:
            server.client.get(f"/cases/{case}/cells?limit=50")
        else:
            server.client.get(("/cases", f"/cases/{case}/summary", f"/cells/{cell}", f"/cells/{cell}/heat")[number % 4])
        if number % 1000 == 999:
            seen.append(round(server.memory(), 1))
    return {"mib_per_thousand": seen, "growth_mib": round(seen[-1] - seen[0], 1), "at_most": 16}


def main() -> None:
    """Measure, print a line for each, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--database", default="")
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--only", choices=["one", "dropped", "paging", "memory", "reviews"], action="append")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    suffixes = {".png", ".bmp", ".jpg", ".webp", ".tif"}
    files = sorted(path for path in args.cells.rglob("*") if path.suffix.lower() in suffixes)[:500]
    assert files, f"no pictures in {args.cells}"
    parts = {
        "one": lambda: one(server, files, predictor),
        "dropped": lambda: dropped(server, files, predictor),
        "paging": lambda: paging(server, files, readers=args.readers),
        "memory": lambda: memory(server, files),
        "reviews": lambda: reviews(server, files, readers=args.readers),
    }
    predictor, found = load(args.model), {}
    predictor.predict(files[:4])
    with opened(args) as server:
        for name in args.only or parts:
            found[name] = parts[name]()
            print(name, json.dumps(found[name]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
