"""A .safetensors file is believed only where its header agrees with its bytes."""

import json
import struct
import tracemalloc

import numpy as np
import pytest

from scratchdiff.weights.tensors import MAX_JSON, read_header, read_json, read_tensors, write_tensors

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.array([1.5, -2.5])


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = {"a": entry("F32", [2, 3], 0, 24), "b": entry("F64", [2], 24, 40)}
DATA = A.tobytes() + B.tobytes()


def write(path, header, data=DATA, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_a_header_written_by_hand_gives_names_and_shapes_and_the_package_reads_the_numbers(tmp_path):
    path = write(tmp_path / "a.safetensors", {"__metadata__": {"format": "pt"}} | GOOD)
    assert read_header(path) == {"a": (2, 3), "b": (2,)}
    pytest.importorskip("safetensors")
    tensors = read_tensors(path)
    assert np.array_equal(tensors["a"], A) and np.array_equal(tensors["b"], B)


@pytest.mark.parametrize("header, message", [
    ({"a": GOOD["a"]}, "its tensors take 24 bytes, and it has 40"),
    (GOOD | {"c": entry("F32", [1], 40, 44)}, "its tensors take 44 bytes, and it has 40"),
    (GOOD | {"b": entry("F64", [2], 20, 36)}, "'b' should begin at byte 24, where the last tensor ends, got 20"),
    (GOOD | {"b": entry("F64", [1], 32, 40)}, "'b' should begin at byte 24"),
    (GOOD | {"c": GOOD["b"]}, "'c' should begin at byte 40"),
    ({"a": entry("F64", [2, 3], 0, 24), "b": GOOD["b"]}, "'a' is F64 of shape .2, 3. .* do not agree"),
    ({"a": entry("F32", [2, 4], 0, 24), "b": GOOD["b"]}, "do not agree"),
    ({"a": entry("F32", [2**61, 2**61], 0, 2**63), "b": GOOD["b"]}, "do not agree"),
    ({"a": entry("F32", [2**61], 0, 2**63)}, "its tensors take 9223372036854775808 bytes, and it has 40"),
    ({"a": entry("F32", [-2, -3], 0, 24), "b": GOOD["b"]}, "do not agree"),
    ({"a": entry("F32", [2.0, 3], 0, 24), "b": GOOD["b"]}, "do not agree"),
    ({"a": entry("F32", [True] * 7, 0, 4)}, "do not agree"),
    ({"a": entry("F32", 99 * [1], 0, 4)}, "do not agree"),
    ({"a": entry("F32", [2, 3], 24, 0), "b": GOOD["b"]}, "do not agree"),
    ({"a": entry("BF16", [2, 6], 0, 24), "b": GOOD["b"]}, "'a' must be of F16, F32 or F64, got 'BF16'"),
    ({"a": entry(["F32"], [2, 3], 0, 24)}, "must be of F16"),
    ({"a": "F32"}, "must be of F16"),
    ([GOOD], "its JSON should be an object, got 'list'"),
    (b'{"a": {}, "a": {}}', "a name comes twice"),
    (b"{" + 30 * b"\xff", "not the JSON that it should be"),
    (100_000 * b"[", "not the JSON that it should be"),
], ids=str)  # fmt: skip
def test_a_header_that_lies_is_refused_in_one_line_that_names_the_file(header, message, tmp_path):
    path = write(tmp_path / "a.safetensors", header)
    with pytest.raises(ValueError, match=message) as error:
        read_header(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**6, MAX_JSON + 1])
def test_a_header_longer_than_its_file_costs_no_memory(length, tmp_path):
    path = write(tmp_path / "a.safetensors", GOOD, length=length)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"a header of {length} bytes in a file of"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 10**5
    tracemalloc.stop()


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    whole = write(tmp_path / "a.safetensors", GOOD).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "a.safetensors").write_bytes(whole[:size])
        with pytest.raises(ValueError):
            read_header(tmp_path / "a.safetensors")


def test_a_file_with_any_byte_of_its_header_changed_is_refused_or_read_in_its_shapes(tmp_path):
    pytest.importorskip("safetensors")
    whole = write(tmp_path / "a.safetensors", GOOD).read_bytes()
    for place in range(len(whole) - len(DATA)):
        for bit in (1, 4, 32, 128):
            path = tmp_path / "b.safetensors"
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            try:
                assert sum(a.nbytes for a in read_tensors(path).values()) == len(DATA)
            except ValueError as error:
                assert str(path) in str(error)


def test_what_the_package_refuses_and_we_do_not_is_a_value_error_too(tmp_path):
    pytest.importorskip("safetensors")
    path = write(tmp_path / "a.safetensors", {"__metadata__": {"steps": 5}} | GOOD)
    with pytest.raises(ValueError, match="a.safetensors: "):
        read_tensors(path)


def test_a_pickle_is_not_opened_whatever_stands_in_its_place(tmp_path):
    for name in ("model.bin", "model.pt"):
        (tmp_path / name).write_bytes(b"cos\nsystem\n")
        with pytest.raises(ValueError, match="is a pickle, which can run any program, so we do not open it; .* convert it"):
            read_header(tmp_path / name)
    with pytest.raises(ValueError, match="model.bin is a pickle"):
        read_header(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "other.safetensors")


def test_a_configuration_larger_than_any_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b" " * (MAX_JSON + 1))
    with pytest.raises(ValueError, match="larger than"):
        read_json(path)


def test_what_is_written_is_read_and_what_cannot_be_written_leaves_nothing(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": A.T, "b": B})  # a transposed view goes out in its own order
    assert np.array_equal(read_tensors(path)["a"], A.T)
    before = path.read_bytes()
    with pytest.raises(Exception, match="unhashable|dtype|complex"):
        write_tensors(path, {"a": A.astype(complex)})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
