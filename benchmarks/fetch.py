"""Time to fetch and verify a large file from loopback, against `curl -o` and `sha256sum`; prints JSON.

    python benchmarks/fetch.py [--megabytes 200] [--rounds 9]

Both sides download to the same disk, from one server in another process that hands the file to the kernel;
they take turns, and the disk is idle when each begins. Ours also flushes the file to the disk, which curl
does not. The target is a ratio of at most 1.3.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

SOURCE = "source.pth"


class Handler(BaseHTTPRequestHandler):
    """Answers every GET with this server's one file."""

    protocol_version = "HTTP/1.1"
    path_served: Path

    def do_GET(self) -> None:
        with self.path_served.open("rb") as file:
            self.send_response(200)
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.end_headers()
            self.wfile.flush()
            self.connection.sendfile(file)

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(path: Path, to_parent: Connection) -> None:
    handler = type("FileHandler", (Handler,), {"path_served": path})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        to_parent.send(server.server_port)
        server.serve_forever()


def seconds(call: Callable[[], object]) -> float:
    os.sync()  # neither side should wait for what the other one wrote
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def by_curl(url: str, target: Path) -> None:
    subprocess.run(["curl", "-sS", "--noproxy", "*", "-o", target, url], check=True)
    subprocess.run(["sha256sum", target], check=True, stdout=subprocess.DEVNULL)


def measure(folder: Path, url: str, digest: str, rounds: int) -> dict[str, object]:
    from bcos_zoo import weights
    from bcos_zoo.weights import manifest

    known = manifest.get("bcos_resnet50.v2_in1k")
    file = dataclasses.replace(known.files[0], where=manifest.Url(url), sha256=digest)
    record = dataclasses.replace(known, files=(file,))
    times: dict[str, list[float]] = {"fetch": [], "second": [], "curl": []}

    def ours(cache: Path) -> None:
        times["fetch"].append(seconds(lambda: weights.fetch(record, cache)))
        times["second"].append(seconds(lambda: weights.fetch(record, cache)))
        weights.location(record, cache).unlink()

    def theirs(cache: Path) -> None:
        times["curl"].append(seconds(lambda: by_curl(url, cache / "curl.pth")))
        (cache / "curl.pth").unlink()

    for i in range(rounds + 1):  # the first round is not counted
        for side in (ours, theirs) if i % 2 else (theirs, ours):
            side(folder)
    middle = {name: statistics.median(values[1:]) for name, values in times.items()}
    return {
        "rounds": rounds,
        "fetch_s": round(middle["fetch"], 3),
        "curl_and_sha256sum_s": round(middle["curl"], 3),
        "ratio": round(middle["fetch"] / middle["curl"], 2),
        "second_fetch_s": round(middle["second"], 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"TORCH_HOME": name, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
        os.environ.pop("BCOS_ZOO_MIRROR", None)
        block = os.urandom(1_000_000)
        with (folder / SOURCE).open("wb") as file:
            for _ in range(options.megabytes):
                file.write(block)
        digest = subprocess.run(
            ["sha256sum", folder / SOURCE], check=True, capture_output=True, text=True
        ).stdout.split()[0]
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        server = context.Process(target=serve, args=(folder / SOURCE, there))
        server.start()
        try:
            url = f"http://127.0.0.1:{here.recv()}/weights.pth"
            result = measure(folder, url, digest, options.rounds)
        finally:
            server.terminate()
            server.join()
    print(json.dumps({"megabytes": options.megabytes, **result}))


if __name__ == "__main__":
    main()
