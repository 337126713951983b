"""Seeds by name: what is drawn for one purpose never depends on how much was drawn for another."""

import hashlib


def seed_of(*parts) -> int:
    """A generator seed from anything printable: 32 bits, all that torch's CPU generator keeps."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big")
