"""Damage to bytes, drawn by a generator: what a fuzz feeds to whatever reads files."""

import random

EDGES = (0, 1, 0x7F, 0x80, 0xFF)
WORDS = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"PK\x01\x02", b"PK\x03\x04", b"../"]
TEXT = [
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "-1",
    "null",
    "[" * 50,
    "{}",
    "\u0661",
    "\u00b2",
    "\ufeff",
    "\0",
    ",",
    "\n",
]
NUMBERS = [None, True, -1, 0, 1 << 70, 2.5, float("nan"), float("inf")]
WRONG = [*NUMBERS, "", "x", "1-0", "../x", [], [[]], {}, {"name": "x"}, [1] * 30, ["skip"]]


def mutated(data: bytes, draws: random.Random) -> bytes:
    """``data`` after one to six changes: flipped bits, other bytes, cuts, insertions, blocks moved or repeated."""
    data = bytearray(data)
    for _ in range(draws.choice((1, 1, 2, 3, 6))):
        size = len(data)
        at = draws.randrange(size + 1)
        length = min(size - at, draws.choice((1, 2, 4, 16, 256)))
        match draws.randrange(8):
            case 0 if at < size:
                data[at] ^= 1 << draws.randrange(8)
            case 1 if at < size:
                data[at] = draws.choice(EDGES)
            case 2:
                del data[at : size if draws.random() < 0.3 else at + length]
            case 3:
                data[at:at] = draws.randbytes(draws.choice((1, 4, 64)))
            case 4:
                data[at : at + length] = data[at : at + length] * 2
            case 5:
                word = draws.choice(WORDS)
                data[at : at + len(word)] = word
            case 6:
                other = draws.randrange(size + 1)
                data[at : at + length] = data[other : other + length]
            case 7:
                text = draws.choice(TEXT).encode()
                data[at : at + (length if draws.random() < 0.5 else 0)] = text
    return bytes(data)


def mutated_value(value, draws: random.Random):
    """Plain data in which one or more entries became something else; a copy."""
    if isinstance(value, dict) and value and draws.random() < 0.9:
        key = draws.choice(sorted(value, key=str))
        rest = {k: v for k, v in value.items() if k != key}
        match draws.randrange(10):
            case 0:
                return rest
            case 1:
                return {**value, draws.choice(("extra", "name", "__class__")): draws.choice(WRONG)}
        return {**value, key: mutated_value(value[key], draws)}
    if isinstance(value, list) and value and draws.random() < 0.8:
        at = draws.randrange(len(value))
        match draws.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, value[at]]
        return [*value[:at], mutated_value(value[at], draws), *value[at + 1 :]]
    return draws.choice(WRONG)
