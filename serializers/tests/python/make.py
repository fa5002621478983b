"""Writes the bodies beside it, as Python kombu would. Made with msgpack 1.2.4 and PyYAML 6.0.3.

Compressed ones are made by the calls that kombu makes (zlib, bz2) and by the program zstd 1.5.4, which says how much a
frame holds if it knows: of a file it does, of what is piped into it it doesn't.
"""
import bz2
import json
import subprocess
import zlib

import msgpack
import yaml

shared = ["cat", "né"]
VALUE = {
    "name": "lolcat1.avi",
    "size": 1301013,
    "big": 2**64 - 1,
    "small": -(2**63),
    "ratio": 1e16,
    "tiny": 5e-324,
    "text": "péché — 漢字 🦀\n- yes: ~\t\u2028",
    "yes": True,
    "none": None,
    "y": "no",
    "nested": {"empty": [], "map": {}, "list": [[1, [2]], "0x1f", "2001-01-01", "12:30:45"]},
    "tags": shared,
    "again": shared,
}

for name, body in {
    "value.json": json.dumps(VALUE).encode(),
    "value.msgpack": msgpack.packb(VALUE, use_bin_type=True),
    "value.yaml": yaml.safe_dump(VALUE, sort_keys=False).encode(),
    "unicode.yaml": yaml.safe_dump(VALUE, sort_keys=False, allow_unicode=True).encode(),
}.items():
    with open(name, "wb") as file:
        file.write(body)

value = json.dumps(VALUE).encode()
for name, body in {
    "value.json.zlib": zlib.compress(value),
    "value.json.bz2": bz2.compress(value),
    "value.json.zst": subprocess.run(["zstd", "-c", "value.json"], capture_output=True, check=True).stdout,
    "piped.json.zst": subprocess.run(["zstd", "-c"], input=value, capture_output=True, check=True).stdout,
    # What kombu would make of a gigabyte of zeros.
    "zeros.bz2": bz2.compress(bytes(1 << 30)),
}.items():
    with open(name, "wb") as file:
        file.write(body)
