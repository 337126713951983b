"""Samples of a recording as they come: a WAV file, or raw samples through a FIFO or from a device.

16-bit samples of one channel are read. What is neither is refused, for read as samples it is noise, in which a model hears words.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from common.errors import DataError

RATES = (1000, 384_000)  # samples a second: of telephones of a century ago, and of studios
WAYS_OUT = "-ac 1 -c:a pcm_s16le OUT.wav"  # of ffmpeg
OTHERS = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"RF64": "RF64", b"RIFX": "RIFX", b"FORM": "AIFF", b"caff": "CAF",
          b"\x1aE\xdf\xa3": "Matroska or WebM", b"RIFF": "a RIFF file of another kind than WAVE"}
PLAIN, EXTENSIBLE = 1, 0xFFFE  # formats of samples; the second names the first in what it adds


def samples(file: BinaryIO, rate: int | None, name: str) -> tuple[int, Iterator[np.ndarray]]:
    """(rate in Hz, pieces of float32 samples as they come): of a WAV file, 16 bit and one channel, or of raw ones at `rate`.

    What a file has behind its samples (a title, a picture) is not heard; of one that ends before the samples that its header says, the
    error stream is told. Raises DataError for another format, samples without a header and no rate, a rate that differs from the header's,
    and one that is none of sound.
    """
    head, said = file.read(12), rate
    left: float = math.inf  # bytes of samples that are to come: a stream does not know
    if head[:4] == b"RIFF" and head[8:12] in (b"WAVE", b""):
        rate, left = _wav_header(file, name)
        if said not in (None, rate):
            raise DataError(f"{name} says {rate} samples a second, and --rate {said}: --rate is for samples without a header")
        first = b""
    elif other := next((kind for mark, kind in OTHERS.items() if head.startswith(mark)), "MP4" if head[4:8] == b"ftyp" else None):
        raise DataError(f"{name} is {other}, and no WAV file of plain samples: ffmpeg -i {name} {WAYS_OUT}, say")
    elif rate is None:
        raise DataError(f"{name} has no WAV header: give --rate, the samples a second (16 bit, one channel)")
    else:
        first = head
    if not RATES[0] <= rate <= RATES[1]:
        raise DataError(f"{name}: {rate} samples a second; {RATES[0]:,} to {RATES[1]:,} are read")

    def pieces() -> Iterator[np.ndarray]:
        rest, to_come = first, left
        while True:
            new = file.read(int(min(rate // 50 * 2, to_come)))  # 20 ms
            rest, to_come = rest + new, to_come - len(new)
            whole = len(rest) // 2 * 2
            if whole:
                yield np.frombuffer(rest[:whole], "<i2").astype(np.float32) / 32768
                rest = rest[whole:]
            if not new:
                if 0 < to_come < math.inf:
                    print(f"proactivellm: {name} ends {to_come // 2 / rate:.2f} s before the samples that its header says; the rest is "
                          "missing", file=sys.stderr)
                return

    return rate, pieces()


def _wav_header(file: BinaryIO, name: str) -> tuple[int, float]:
    """Up to the samples; (rate, bytes of samples). A stream cannot seek, so chunks before the samples are read and dropped; whoever writes
    one says 0 bytes, or as many as the field holds, and means to the end."""
    rate = None
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise DataError(f"{name} ends before its samples: no WAV file")
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        if kind == b"data":
            if rate is None:
                raise DataError(f"{name}: samples before their format; no WAV file")
            return rate, math.inf if size in (0, 0x7FFFFFFF) or size >= 0xFFFFFF00 else size
        if size > 1 << 20:
            raise DataError(f"{name}: a header of {size} bytes; no WAV file")
        body = file.read(size + size % 2)
        if len(body) < size:
            raise DataError(f"{name} ends before its samples: no WAV file")
        if kind == b"fmt ":
            form, channels, rate, bits = (int.from_bytes(body[i:j], "little") for i, j in ((0, 2), (2, 4), (4, 8), (14, 16)))
            if form == EXTENSIBLE:
                form = int.from_bytes(body[24:26], "little")
            if (form, channels, bits) != (PLAIN, 1, 16):
                raise DataError(f"{name}: format {form}, {channels} channels, {bits} bits; 16-bit samples of one channel are read")
