"""Flip every single bit of a small checkpoint: each must be refused, or be without effect on what is read.

    python tests/robustness/flip_bits.py

About 15,000 files, under a minute. What is without effect: times of day, permissions and versions in the zip headers.
"""

import tempfile
from pathlib import Path

from fuzz_files import same, seeds

from scratchdiff.checkpoint import load_checkpoint

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        whole = seeds(folder)["checkpoint"]
        want, path = load_checkpoint(Path(folder) / "whole.npz"), Path(folder) / "flipped.npz"
        refused = 0
        for i in range(8 * len(whole)):
            path.write_bytes(whole[: i // 8] + bytes([whole[i // 8] ^ 1 << i % 8]) + whole[i // 8 + 1 :])
            try:
                assert same(load_checkpoint(path), want), f"bit {i % 8} of byte {i // 8} changes what is read"
            except ValueError:
                refused += 1
        print(f"{8 * len(whole):,} flipped bits: {refused:,} refused, {8 * len(whole) - refused:,} without effect")
