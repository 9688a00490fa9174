"""Ways in which files go wrong: cut, emptied, flipped bits, noise, a header that declares too much, other words."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

from hypothesis import strategies as st

Damage = Callable[[bytes], bytes]
CELLS = (
    "",
    "nan",
    "inf",
    "-1",
    "1e999",
    "9" * 5000,
    "é",
    "\x00",
    '"',
    "\n",
    "a,b",
    "done",
    "!!python/name:os.system",
    "${x}",
    "=1+1",
    "\x1b[2J\u202e",
)
VALUES: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    10**30,
    10**400,
    1e308,
    "",
    "x",
    "..",
    [],
    [[]],
    {},
    {"a": None},
    "é\n",
    "\ud800",
)


def cut(share: float) -> Damage:
    """Only the first `share` of the bytes is left."""
    return lambda data: data[: int(share * len(data))]


def flipped(places: list[float], bit: int) -> Damage:
    """One bit of the bytes at some shares of the length is another."""

    def apply(data: bytes) -> bytes:
        changed = bytearray(data)
        for place in places:
            changed[int(place * len(data))] ^= 1 << bit
        return bytes(changed)

    return apply


def replaced(by: bytes) -> Damage:
    """Something else altogether."""
    return lambda data: by


def declared(length: int) -> Damage:
    """The header says that so many bytes belong to it."""
    return lambda data: struct.pack("<Q", length) + data[8:]


def reworded(place: float, cell: str) -> Damage:
    """Another word where a word of a text file was."""

    def apply(data: bytes) -> bytes:
        words = data.split(b",")
        words[int(place * len(words))] = cell.encode()
        return b",".join(words)

    return apply


def revalued(place: float, value: object) -> Damage:
    """Another value for a key of a JSON file,
    also of the header of a safetensors file; other files stay as they are."""

    def apply(data: bytes) -> bytes:
        length = struct.unpack("<Q", data[:8])[0] if data[:1] != b"{" and len(data) > 8 else 0
        head, rest = (data[8 : 8 + length], data[8 + length :]) if 0 < length < len(data) else (data, b"")
        try:
            values = json.loads(head)
        except ValueError:
            return data
        names = [(values, name) for name in values]
        names += [(inner, name) for inner in values.values() if isinstance(inner, dict) for name in inner]
        owner, name = names[int(place * len(names))]
        owner[name] = value
        text = json.dumps(values).encode()
        return (struct.pack("<Q", len(text)) if length else b"") + text + rest

    return apply


def damages() -> st.SearchStrategy[Damage]:
    """All of these ways."""
    share = st.floats(0, 1, exclude_max=True, allow_subnormal=False)
    return st.one_of(
        st.builds(cut, share),
        st.builds(flipped, st.lists(share, min_size=1, max_size=3), st.integers(0, 7)),
        st.builds(flipped, st.lists(share.map(lambda s: s / 50), min_size=1, max_size=2), st.integers(0, 7)),
        st.builds(replaced, st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode())),
        st.builds(
            replaced,
            st.sampled_from((b'{"a": ' + b"[" * 10_000, b"a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]\n")),
        ),
        st.builds(
            replaced, st.sampled_from((b"", b"\n", b"{}", b"[]", b"null", b"\x80\x04N.", b"PK\x03\x04", b"\xff" * 99))
        ),
        st.builds(declared, st.sampled_from((0, 1, 2**31, 2**62, 2**64 - 1))),
        st.builds(reworded, share, st.sampled_from(CELLS)),
        st.builds(revalued, share, st.sampled_from(VALUES)),
    )
