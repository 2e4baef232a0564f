"""Whether a clip's file is complete. FFmpeg reads a cut Matroska, AVI or Ogg file as if it ended there.

Containers say how long their parts are: only that is read here, part by part, and compared with the file.
A file that does not state its length, such as a live recording cut between two clusters, or MPEG-TS or a
program stream cut at the end of a packet, cannot be told from a complete one.
Sources: RFC 8794 (EBML) and 9559 (Matroska), ISO/IEC 14496-12 section 4.2 (boxes), Microsoft's RIFF and
OpenDML, RFC 3533 (Ogg), ISO/IEC 13818-1 (packets of 188 bytes, and packs), Adobe's FLV 10.1 annex E,
Microsoft's ASF.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

EBML, SEGMENT = 0x1A45DFA3, 0x18538067
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
PACKETS = ((188, 0), (192, 4), (204, 0))  # bytes of an MPEG-TS packet, offset of its mark: plain, timed, FEC
MARK = b"G"
PACK = b"\0\0\1\xba"  # start of a pack in an MPEG program stream
FLV_TAGS = (8, 9, 18)  # sound, pictures, data
OGG_LAST, OGG_PAGE = 4, 65307  # the flag of the last page; the most bytes of a page
MOST_PARTS = 1_000_000  # after that many, the rest of a file is not checked


def missing(path: Path) -> str | None:
    """What is cut off from a container's file, in words; None if nothing is, or if that cannot be told."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        if start[:4] == struct.pack(">I", EBML):
            end = _ebml(file, size)
        elif start[:4] == b"RIFF":
            end = _riff(file, size)
        elif start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            end = _boxes(file, size)
        elif start[:3] == b"FLV":
            end = _flv(file, size)
        elif start == ASF:
            end = _asf(file)
        elif start[:4] == b"OggS":
            return None if _ogg_ends(file, size) else "its last page is not there"
        elif start[:4] == PACK:
            end = _program(file, size)
        elif MARK in (start[:1], start[4:5]):
            end = _transport(file, size)
        else:
            return None
    return f"it says that it has {end} bytes, and has {size}" if end > size else None


def _ebml(file: BinaryIO, size: int) -> int:
    """Where the last element ends; if an element's size is unknown, the elements inside it are followed."""
    at, end = 0, 0
    for _ in range(MOST_PARTS):
        file.seek(at)
        head = file.read(12)
        if not head:
            break
        id_length = _width(head[0])
        if id_length > 4:  # not an element: anything may follow the last one
            break
        if len(head) <= id_length or len(head) < id_length + (length := _width(head[id_length])):
            return size + 1
        if length > 8:
            break
        name = int.from_bytes(head[:id_length], "big")
        value = int.from_bytes(head[id_length : id_length + length], "big") & ((1 << 7 * length) - 1)
        at += id_length + length
        if value == (1 << 7 * length) - 1:  # unknown: its elements are followed as if they were beside it
            continue
        end = at + value
        if name == SEGMENT or end > size:
            break
        at = end
    return end


def _width(first: int) -> int:
    """The bytes of a variable-length number, from its first byte; 9 if it is not such a number."""
    return 9 - first.bit_length()


def _riff(file: BinaryIO, size: int) -> int:
    at = 0
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF":  # padding or anything else: not part of the clip
            break
        at += 8 + length + length % 2
    return at - 1 if at == size + 1 else at  # the last byte of padding is often left out


def _boxes(file: BinaryIO, size: int) -> int:
    at = 0
    for _ in range(MOST_PARTS):
        if at >= size:
            break
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return size + 1
        (length,) = struct.unpack(">I", head[:4])
        if length == 0:  # to the end of the file
            return size
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        if length < 8 or not head[4:8].isascii():
            return at  # not a box: anything may follow the last one
        at += length
    return at


def _transport(file: BinaryIO, size: int) -> int:
    """Where the packet of the last mark ends; 0 if there are no marks where packets begin."""
    file.seek(0)
    head = file.read(4 * max(PACKETS)[0])
    for length, first in PACKETS:
        if len(marks := head[first::length]) > 1 and not marks.strip(MARK):
            whole = size // length * length
            file.seek(whole + first)
            return whole if size == whole or file.read(1) not in (MARK, b"") else whole + length
    return 0


def _program(file: BinaryIO, size: int) -> int:
    """Where the last pack or packet of an MPEG-1 or MPEG-2 program stream ends."""
    at = 0
    for _ in range(MOST_PARTS):
        if at >= size:
            break
        file.seek(at)
        head = file.read(14)
        if len(head) < 4 and PACK.startswith(head[:3]) and head[2:3] == b"\1":
            return size + 1
        if head[:3] != PACK[:3] or head[3:4] < b"\xb9":  # not a packet: anything may follow the last one
            break
        if head[3:4] == b"\xb9":  # the end of the program
            at += 4
        elif head[3:4] == PACK[3:]:
            if len(head) < (length := 14 if head[4:5] >= b"\x40" else 12):
                return size + 1
            at += length + (head[13] & 7 if length == 14 else 0)
        elif len(head) < 6:
            return size + 1
        else:
            at += 6 + int.from_bytes(head[4:6], "big")
    return at


def _flv(file: BinaryIO, size: int) -> int:
    file.seek(5)
    (at,) = struct.unpack(">I", file.read(4).rjust(4, b"\0"))
    at += 4
    for _ in range(MOST_PARTS):
        if at >= size:
            break
        file.seek(at)
        head = file.read(11)
        if len(head) < 11:
            return size + 1
        if head[0] & 31 not in FLV_TAGS:  # not a tag: anything may follow the last one
            break
        at += 11 + int.from_bytes(head[1:4], "big") + 4
    return at


def _asf(file: BinaryIO) -> int:
    file.seek(0)
    head = file.read(1 << 16)
    at = head.find(ASF_FILE)
    if at < 0 or at + 48 > len(head):
        return 0
    (length,) = struct.unpack_from("<Q", head, at + 40)
    (flags,) = struct.unpack_from("<I", head, at + 88) if at + 92 <= len(head) else (1,)
    return 0 if flags & 1 else int(length)  # broadcasts do not know their length


def _ogg_ends(file: BinaryIO, size: int) -> bool:
    file.seek(max(0, size - OGG_PAGE))
    tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0 or at + 27 > len(tail):
        return False
    lengths = tail[at + 27 : at + 27 + tail[at + 26]]
    return bool(tail[at + 5] & OGG_LAST) and at + 27 + len(lengths) + sum(lengths) <= len(tail)
