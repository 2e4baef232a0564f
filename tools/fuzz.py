"""Damaged pictures and clips for `bcos-zoo explain`: each must give an answer or one clear line.

    python tools/fuzz.py --minutes 60 --seed 0 [-o FOLDER]      # exit 0 if there is no fault
    python tools/fuzz.py --seed 0 --case 1234                   # one case again, with all its output

Each case depends only on the seed, its number and the builds of Pillow and FFmpeg, which make the files to be
damaged. These are faults: a traceback, a dead process, more than 30 s, more than 2 GB of memory, an exit code
other than 0 and 2, a code 2 without exactly one `error:` line, a code 0 with anything but the line of its
picture, and a file left half-written. Faults are saved in the folder as `SEED-CASE.ENDING`, beside the
output. The cases run, as on the command line, in one process that is restarted if it dies or hangs. Linux
only: memory is measured by /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fuzz_corpus
import fuzz_mutations

MODEL = "bcos_resnet20.cifar10"  # the smallest: files are tested, not networks
SECONDS = 30.0
BYTES = 2_000_000_000
HARD_LIMIT = 8 << 30  # of the worker's data: far beyond a fault, but it protects the machine
WRONG_SUFFIX = 0.06
ENDINGS = (*fuzz_corpus.IMAGES, *fuzz_corpus.CLIPS)


@dataclass(frozen=True)
class Case:
    kind: str  # the ending of the file that it was made from
    name: str
    content: bytes
    how: list[str]


def make(files: dict[str, list[bytes]], seed: int, number: int) -> Case:
    rng = random.Random(f"{seed}/{number}")
    kind = rng.choice(ENDINGS)
    data = rng.choice(files[kind])
    other = rng.choice(files[rng.choice((kind, rng.choice(ENDINGS)))])
    content, how = fuzz_mutations.mutated(rng, data, other)
    ending = rng.choice(ENDINGS) if rng.random() < WRONG_SUFFIX else kind
    return Case(kind, f"{seed}-{number}.{ending}", content, how)


def work() -> None:
    """The worker: for each line, a path and a folder, runs `explain` and answers with a line of JSON."""
    resource.setrlimit(resource.RLIMIT_DATA, (HARD_LIMIT, HARD_LIMIT))
    from bcos_zoo import cli

    requests, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 1)  # so that output of C libraries is captured as well
        os.dup2(said.fileno(), 2)
        for request in requests:
            path, folder = json.loads(request)
            said.seek(0)
            said.truncate()
            _reset_peak()
            try:
                code: object = cli.run(["explain", path, "-o", folder, "--model", MODEL])
            except BaseException:  # SystemExit too: `main` would end with it, and a traceback
                traceback.print_exc()
                code = "traceback"
            sys.stdout.flush()
            sys.stderr.flush()
            said.seek(0)
            text = said.read().decode(errors="replace")
            answers.write(json.dumps({"code": code, "said": text, "bytes": _peak()}) + "\n")
            answers.flush()


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


class Worker:
    """The process that explains, restarted after it dies."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def run(self, path: Path, folder: Path) -> dict[str, Any]:
        """The outcome for one file; "code" is an exit code, or says what went wrong."""
        if self.process is None:
            command = [sys.executable, __file__, "--work"]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
            )
        process = self.process
        requests, answers = _pipe(process.stdin), _pipe(process.stdout)
        requests.write(json.dumps([str(path), str(folder)]) + "\n")
        requests.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(answers, selectors.EVENT_READ)
            ready = selector.select(timeout=2 * SECONDS)  # twice: the time limit itself is checked elsewhere
        line = answers.readline() if ready else ""
        if line:
            return dict(json.loads(line))
        self.stop()
        return {"code": f"died ({process.returncode})" if ready else "hangs", "said": "", "bytes": 0}

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def fault(answer: dict[str, Any], seconds: float, folder: Path) -> str | None:
    """What is wrong with an answer, or None."""
    code, lines = answer["code"], answer["said"].splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    written = [path.name for path in folder.rglob("*") if path.is_file()]
    if code not in (0, 2):
        return f"exit: {code}"
    if seconds > SECONDS:
        return f"{seconds:.0f} s"
    if answer["bytes"] > BYTES:
        return f"{answer['bytes'] / 1e9:.2f} GB"
    if code == 2 and (len(lines) != 1 or len(errors) != 1):
        return f"code 2 with {len(errors)} errors in {len(lines)} lines"
    if code == 0 and (len(lines) != 1 or errors or len(written) != 1):
        return f"code 0 with {len(lines)} lines and {len(written)} files"
    if code == 2 and written:
        return f"refused, and left {written}"
    return None


def run(seed: int, numbers: Any, minutes: float, keep: Path, verbose: bool) -> int:
    end = time.monotonic() + 60 * minutes
    tally: dict[str, Counter[str]] = {kind: Counter() for kind in ENDINGS}
    longest, peak, faults = (0.0, ""), (0, ""), []
    worker = Worker()
    os.environ["SVT_LOG"] = "0"  # silences the encoders of the corpus
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        files = fuzz_corpus.corpus(temporary)
        worker.run(temporary / "none.png", temporary / "none")  # not timed: it also loads torch
        for number in numbers:
            if time.monotonic() > end:
                break
            case = make(files, seed, number)
            path, folder = temporary / case.name, temporary / "out"
            path.write_bytes(case.content)
            start = time.monotonic()
            answer = worker.run(path, folder)
            seconds = time.monotonic() - start
            wrong = fault(answer, seconds, folder)
            tally[case.kind]["fault" if wrong else "decoded" if answer["code"] == 0 else "refused"] += 1
            longest, peak = max(longest, (seconds, case.name)), max(peak, (answer["bytes"], case.name))
            if verbose:
                print(f"{case.name}: {case.how}, {seconds:.1f} s, {answer}")
            if wrong:
                faults.append(case.name)
                print(f"FAULT {case.name}: {wrong} ({', '.join(case.how)})", flush=True)
                keep.mkdir(parents=True, exist_ok=True)
                (keep / case.name).write_bytes(case.content)
                told = {"fault": wrong, "how": case.how, "seconds": seconds} | answer
                (keep / f"{case.name}.json").write_text(json.dumps(told, indent=2))
            path.unlink()
            for left in sorted(folder.rglob("*"), reverse=True):
                left.unlink() if left.is_file() else left.rmdir()
    worker.stop()
    print(f"seed {seed}\n{'':6}{'cases':>8}{'decoded':>9}{'refused':>9}{'faults':>8}")
    total: Counter[str] = Counter()
    for kind, row in [*tally.items(), ("all", total)]:
        total += row if kind != "all" else Counter()
        print(f"{kind:6}{row.total():8}{row['decoded']:9}{row['refused']:9}{row['fault']:8}")
    print(f"longest {longest[0]:.1f} s ({longest[1]}), most memory {peak[0] / 1e9:.2f} GB ({peak[1]})")
    return 1 if faults else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this one alone")
    parser.add_argument(
        "-o", dest="keep", type=Path, default=Path("fuzz-faults"), help="folder of the faults"
    )
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        return work()
    numbers = [given.case] if given.case is not None else iter(range(1 << 60))
    sys.exit(run(given.seed, numbers, given.minutes, given.keep, given.case is not None))


if __name__ == "__main__":
    main()
