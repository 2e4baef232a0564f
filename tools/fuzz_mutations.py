"""What `fuzz.py` does to a file: functions of its bytes and a generator of random numbers."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

Mutation = Callable[[random.Random, bytes], bytes]
NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    127,
    128,
    255,
    256,
    1000,
    4096,
    16383,
    16384,
    20000,
    32767,
    32768,
    65500,
    65535,
)
LARGE = (0x10000, 0xFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
PNG = b"\x89PNG\r\n\x1a\n"
BOXES = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"iprp", b"ipco", b"udta"}


def flips(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def header_flips(rng: random.Random, data: bytes) -> bytes:
    """Flips in the first bytes, where formats, sizes and counts are."""
    end = min(len(data), rng.choice((32, 128, 512)))
    return flips(rng, data[:end]) + data[end:]


def noise(rng: random.Random, data: bytes) -> bytes:
    at, length = rng.randrange(len(data)), rng.choice((1, 4, 16, 64, 256))
    return data[:at] + rng.randbytes(length) + data[at + length :]


def zeros(rng: random.Random, data: bytes) -> bytes:
    at, length = rng.randrange(len(data)), rng.choice((4, 64, 1024))
    return data[:at] + bytes(min(length, len(data) - at)) + data[at + length :]


def truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(1, len(data))]


def head_cut(rng: random.Random, data: bytes) -> bytes:
    return data[rng.randrange(1, min(len(data), 64)) :]


def swapped(rng: random.Random, data: bytes) -> bytes:
    length = rng.randrange(1, max(2, len(data) // 4))
    a, b = sorted(rng.randrange(max(1, len(data) - length)) for _ in range(2))
    if a + length > b:
        return data
    return data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]


def removed(rng: random.Random, data: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:a] + data[b:] or data


def doubled(rng: random.Random, data: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:b] + data[a:b] + data[b:]


def field(rng: random.Random, data: bytes) -> bytes:
    """Replace a number in the header, of two, four or eight bytes in either order, by a critical value."""
    form = rng.choice(("<H", ">H", "<I", ">I", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    at = rng.randrange(max(1, min(len(data), rng.choice((48, 160, 800, len(data)))) - size))
    value = rng.choice(NUMBERS if size == 2 else NUMBERS + LARGE)
    return data[:at] + struct.pack(form, value) + data[at + size :]


def pieces(data: bytes) -> list[bytes]:
    """The chunks of a PNG, RIFF or ISO file, the segments of a JPEG, or equal parts of any other file."""
    if data.startswith(PNG):
        return _chunks(data, 8, ">I", 0, 12)
    if data[:4] == b"RIFF":
        return _chunks(data, 12, "<I", 4, 8)
    if data[4:8] in (b"ftyp", b"moov", b"mdat"):
        return _chunks(data, 0, ">I", 0, 0)
    if data[:2] == b"\xff\xd8":
        return _chunks(data, 2, ">H", 2, 2)
    step = max(1, len(data) // 16)
    return [data[i : i + step] for i in range(0, len(data), step)]


def _chunks(data: bytes, start: int, form: str, at: int, more: int) -> list[bytes]:
    """start: of the first chunk; form, at: of a chunk's size; more: bytes that this size does not count."""
    found, place = [data[:start]], start
    while place + at + struct.calcsize(form) <= len(data):
        (size,) = struct.unpack_from(form, data, place + at)
        end = place + max(size + more, 8)
        if data[:4] == b"RIFF":
            end += size % 2
        found.append(data[place:end])
        place = end
    return [*found, data[place:]]


def chunks_moved(rng: random.Random, data: bytes) -> bytes:
    """Leave a chunk out, double it, or swap it with another."""
    parts = pieces(data)
    a, b = rng.randrange(len(parts)), rng.randrange(len(parts))
    what = rng.randrange(3)
    if what == 0:
        del parts[a]
    elif what == 1:
        parts.insert(b, parts[a])
    else:
        parts[a], parts[b] = parts[b], parts[a]
    return b"".join(parts) or data


def sealed(rng: random.Random, data: bytes) -> bytes:
    """Damage one chunk, and in a PNG fix its checksum, so that readers accept it."""
    parts = pieces(data)
    at = rng.randrange(len(parts))
    if len(parts[at]) > 12:
        change = rng.choice((flips, field, noise))
        if data.startswith(PNG):
            body = parts[at][4:8] + change(rng, parts[at][8:-4])
            checksum = struct.pack(">I", zlib.crc32(body))
            parts[at] = struct.pack(">I", len(body) - 4) + body + checksum
        else:
            parts[at] = parts[at][:8] + change(rng, parts[at][8:])
    return b"".join(parts)


def deep_box(rng: random.Random, data: bytes) -> bytes:
    """Change a number next to the name of a box or element inside a clip."""
    names = (
        b"stsd",
        b"stts",
        b"stsz",
        b"stco",
        b"stsc",
        b"tkhd",
        b"mdhd",
        b"elst",
        b"avcC",
        b"ispe",
        b"av1C",
    )
    names += (b"strf", b"strh", b"avih", b"idx1", b"\xb0\x82", b"\x1f\x43\xb6\x75", b"\xa3", b"iloc", b"ipma")
    places = [data.find(name) for name in names]
    if not (places := [place for place in places if place >= 0]):
        return field(rng, data)
    at = rng.choice(places) + rng.randrange(-4, 40)
    at = min(max(at, 0), len(data) - 4)
    return data[:at] + struct.pack(rng.choice("<>") + "I", rng.choice(NUMBERS + LARGE)) + data[at + 4 :]


MUTATIONS: tuple[Mutation, ...] = (
    flips, header_flips, noise, zeros, truncated, head_cut, swapped, removed, doubled, field, field,
    chunks_moved, sealed, sealed, deep_box,
)  # fmt: skip


def mutated(rng: random.Random, data: bytes, other: bytes) -> tuple[bytes, list[str]]:
    """A damaged file, and what damaged it. other: a second file, whose end may replace this one's."""
    names = []
    if rng.random() < 0.08:
        data = data[: rng.randrange(1, len(data))] + other[rng.randrange(len(other)) :]
        names.append("spliced")
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3)) if names else rng.choice((1, 1, 1, 2, 3))):
        if len(data) < 4:
            break
        change = rng.choice(MUTATIONS)
        names.append(change.__name__)
        data = change(rng, data)
    return data, names
