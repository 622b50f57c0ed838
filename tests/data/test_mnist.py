import gzip
import hashlib
import http.server
import struct
import threading
import time
import tracemalloc

import numpy as np
import pytest

from scratchdiff.data import download_mnist, mnist, read_idx

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array):
    array = np.asarray(array, np.uint8)
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def small_set(n=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28)), rng.integers(0, 10, n)


def write(root, images, labels, prefix="train", mark="-", ending=""):
    pack = gzip.compress if ending else bytes
    (root / f"{prefix}-images{mark}idx3-ubyte{ending}").write_bytes(pack(idx(images)))
    (root / f"{prefix}-labels{mark}idx1-ubyte{ending}").write_bytes(pack(idx(labels)))


# mnist


def test_the_embedded_digits_are_float32_images_from_minus_one_to_one():
    images, labels = mnist()
    assert images.dtype == np.float32 and images.shape == (10_000, 28, 28, 1)
    assert images.min() == -1 and images.max() == 1
    assert labels.dtype == np.int64 and set(labels) == set(range(10))
    assert images[:, 0, 0].max() == -1  # the paper is -1


@pytest.mark.parametrize("split, prefix", [("train", "train"), ("test", "t10k")])
@pytest.mark.parametrize("mark", "-.")
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_folder_loads_in_every_usual_spelling(tmp_path, split, prefix, mark, ending):
    pixels, digits = small_set()
    write(tmp_path, pixels, digits, prefix, mark, ending)
    images, labels = mnist(split, root=str(tmp_path))
    assert images.dtype == np.float32 and labels.dtype == np.int64
    np.testing.assert_allclose(images[..., 0], pixels / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(labels, digits)


def test_the_test_digits_without_a_folder_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"training digits only.*root=.*download_mnist"):
        mnist("test")


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'train' or 'test', got 'valid'"):
        mnist("valid")


def test_a_folder_without_the_files_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte.*\.gz") as error:
        mnist("test", root=tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "images, labels, found",
    [
        (np.zeros((4, 28, 28)), np.zeros(3), r"labels-idx1.*\(3,\) for 4 images"),
        (np.zeros((4, 28, 28)), np.zeros((4, 1)), r"labels-idx1.*\(4, 1\) for 4 images"),
        (np.zeros((4, 28, 28)), [0, 10, 1, 2], "labels-idx1.*0..9, found 10"),
        (np.zeros((4, 28, 27)), np.zeros(4), r"images-idx3.*\(N, 28, 28\), found \(4, 28, 27\)"),
        (np.zeros(4), np.zeros(4), r"images-idx3.*\(N, 28, 28\), found \(4,\)"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused_by_name(tmp_path, images, labels, found):
    write(tmp_path, images, labels)
    with pytest.raises(ValueError, match=found):
        mnist(root=tmp_path)


# read_idx


@pytest.mark.parametrize("shape", [(5,), (2, 3), (4, 3, 2), (2, 3, 4, 1)])
def test_plain_and_gzipped_files_agree_whatever_they_are_called(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    (tmp_path / "plain.gz").write_bytes(idx(array))
    (tmp_path / "packed").write_bytes(gzip.compress(idx(array)))
    for name in ("plain.gz", "packed"):
        found = read_idx(tmp_path / name)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, array)


GOOD = idx(np.arange(24).reshape(4, 3, 2))
PACKED = gzip.compress(GOOD)
BROKEN = {
    "empty": (b"", "not an IDX file"),
    "short magic": (b"\0\0\x08", "not an IDX file"),
    "wrong magic": (b"\0\1" + GOOD[2:], r"not an IDX file.*found \[0, 1, 8, 3\]"),
    "other type": (b"\0\0\x0d" + GOOD[3:], r"not an IDX file.*found \[0, 0, 13, 3\]"),
    "no dimension": (b"\0\0\x08\0", "not an IDX file"),
    "nine dimensions": (b"\0\0\x08\x09" + GOOD[4:], "not an IDX file"),
    "a web page": (b"<!DOCTYPE html><html></html>", "not an IDX file"),
    "cut in the header": (GOOD[:10], "ends inside its header"),
    "cut in the data": (GOOD[:-1], r"claims shape \(4, 3, 2\), which is 24 bytes, but holds only 23"),
    "too long": (GOOD + b"\0", "24 bytes, but holds more"),
    "an empty dimension": (idx(np.zeros((0, 28, 28))), r"claims shape \(0, 28, 28\)"),
    "an absurd claim": (b"\0\0\x08\x03" + b"\xff" * 12, "claims shape .* accepted are 1 to 1073741824"),
    "a large claim": (b"\0\0\x08\x01" + struct.pack(">I", 2**30) + b"abc", "but holds only 3"),
    "gzip of a cut file": (gzip.compress(GOOD[:-1]), "but holds only 23"),
    "gzip of a longer file": (gzip.compress(GOOD + b"\0"), "but holds more"),
    "gzip of a large claim": (gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 2**30) + b"abc"), "but holds only 3"),
    "gzip of nothing": (gzip.compress(b""), "not an IDX file"),
    "only a gzip's beginning": (PACKED[:2], "broken gzip"),
    "a cut gzip": (PACKED[:-9], "broken gzip"),
    "a gzip without its end": (PACKED[:-4], "broken gzip"),
    "a gzip of wrong checksum": (PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], "broken gzip"),
    "a gzip of another method": (PACKED[:2] + b"\7" + PACKED[3:], "broken gzip"),
    "a gzip with broken data": (PACKED[:10] + b"\xff" * 20 + PACKED[30:], "broken gzip"),
    "a gzip with something after it": (PACKED + b"something", "broken gzip"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_in_one_line_with_its_name(tmp_path, case):
    content, found = BROKEN[case]
    path = tmp_path / "some-file.gz"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=found) as error:
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert peak < 8e6  # nothing was set aside for what is not there


def test_a_gzip_that_unpacks_to_far_more_than_its_header_says_is_not_unpacked(tmp_path):
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(GOOD + bytes(200_000_000), 1))
    tracemalloc.start()
    with pytest.raises(ValueError, match="bomb.gz.*24 bytes, but holds more"):
        read_idx(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


def test_flipping_any_byte_gives_an_array_or_a_value_error(tmp_path):
    path = tmp_path / "flipped"
    for content in (GOOD, PACKED):
        for i in range(len(content)):
            path.write_bytes(content[:i] + bytes([content[i] ^ 0x55]) + content[i + 1 :])
            try:
                assert read_idx(path).size == 24
            except ValueError as error:
                assert str(path) in str(error)


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_is_not_a_file_is_refused_by_name(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="is not a file") as error:
        read_idx(tmp_path / name)
    assert str(tmp_path) in str(error.value)


# download_mnist, from a server on this machine and with small files in MNIST's place


@pytest.fixture
def serve(monkeypatch):
    """serve(pages) -> address, list of the paths asked for. pages: {file name: (status, length promised, content)}."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(pages):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                status, length, content = pages.get(self.path.rpartition("/")[2], (404, 9, b"not found"))
                self.send_response(status)
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        asked = []
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/mnist/", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def files(monkeypatch):
    """Four small IDX files, whose SHA-256 take the place of MNIST's."""
    files = {}
    for prefix, seed in (("train", 0), ("t10k", 1)):
        images, labels = small_set(seed=seed)
        files |= {f"{prefix}-images-idx3-ubyte": idx(images), f"{prefix}-labels-idx1-ubyte": idx(labels)}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setitem(download_mnist.__globals__, "SHA256", digests)
    return files


def pages(files):
    packed = {name: gzip.compress(content) for name, content in files.items()}
    return {f"{name}.gz": (200, len(content), content) for name, content in packed.items()}


def test_the_four_files_of_mnist_and_their_hashes_are_the_expected_ones():
    digests = download_mnist.__globals__["SHA256"]
    assert tuple(digests) == NAMES
    assert [d[:8] for d in digests.values()] == ["ba891046", "65a50cbb", "0fa7898d", "ff7bcfd4"]
    assert all(len(bytes.fromhex(d)) == 32 for d in digests.values())


def test_a_download_lands_unpacked_and_loads(tmp_path, serve, files):
    root = tmp_path / "new" / "folder"
    mirror, _ = serve(pages(files))
    download_mnist(root, mirrors=[mirror])
    assert {path.name: path.read_bytes() for path in root.iterdir()} == files
    assert len(mnist("train", root)[0]) == len(mnist("test", root)[0]) == 6


def test_a_mirror_without_length_or_trailing_slash_will_do(tmp_path, serve, files):
    mirror, _ = serve({name: (200, None, content) for name, (_, _, content) in pages(files).items()})
    download_mnist(tmp_path, mirrors=[mirror.rstrip("/")])
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)


def test_what_is_there_and_right_is_not_fetched_again(tmp_path, serve, files):
    (tmp_path / NAMES[0]).write_bytes(files[NAMES[0]])
    mirror, asked = serve(pages(files))
    download_mnist(tmp_path, mirrors=[mirror])
    assert asked == [f"/mnist/{name}.gz" for name in NAMES[1:]]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_another_file_under_the_same_name_is_not_overwritten(tmp_path, serve, files):
    (tmp_path / NAMES[2]).write_bytes(b"trousers and coats")
    mirror, asked = serve(pages(files))
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte exists and is not MNIST's"):
        download_mnist(tmp_path, mirrors=[mirror])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"trousers and coats"] and asked == []


def test_a_root_that_is_a_file_is_refused(tmp_path, files):
    (tmp_path / "root").write_bytes(b"")
    with pytest.raises(ValueError, match="root is not a folder"):
        download_mnist(tmp_path / "root", mirrors=[])


HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"
FAULTS = {
    "wrong content": (lambda good: (200, len(gzip.compress(b"x")), gzip.compress(b"x")), "SHA-256"),
    "cut connection": (lambda good: (200, len(good), good[:20]), "cut after 20 of"),
    "cut without length": (lambda good: (200, None, good[:20]), "cut off"),
    "broken data": (lambda good: (200, len(good), good[:10] + b"\xff" * 9 + good[19:]), "broken gzip|SHA-256"),
    "web page": (lambda good: (200, len(HTML), HTML), "not a gzip file; it begins with b'<!DOCTYPE html>"),
    "not found": (lambda good: (404, 9, b"not found"), "404"),
    "server error": (lambda good: (503, 4, b"busy"), "503"),
    "nothing": (lambda good: (200, 0, b""), "not a gzip file"),
    "too large": (lambda good: (200, 10**12, b""), "too many"),
    "a bomb": (lambda good: (200, None, gzip.compress(bytes(2**26 + 1), 1)), "cut off, or not MNIST's"),
}


@pytest.mark.parametrize("name", [NAMES[0], NAMES[3]])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_download_gives_one_line_and_leaves_nothing_behind(tmp_path, serve, files, fault, name):
    spoil, found = FAULTS[fault]
    served = pages(files)
    served[f"{name}.gz"] = spoil(served[f"{name}.gz"][2])
    mirror, _ = serve(served)
    with pytest.raises(OSError, match=found) as error:
        download_mnist(tmp_path / "root", mirrors=[mirror])
    assert f"{mirror}{name}.gz" in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def misbehave(monkeypatch):
    """misbehave(do) -> address of a server that answers each request with do(handler)."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(do):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                do(self)

            def log_message(self, *args):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        servers[-1].handle_error = lambda *args: None  # the client hangs up; that is the point
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/mnist/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def redirect_to_a_page(handler):
    if handler.path == "/login":
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(HTML)
    else:
        handler.send_response(302)
        handler.send_header("Location", "/login")
        handler.end_headers()


def redirect_for_ever(handler):
    handler.send_response(302)
    handler.send_header("Location", handler.path + "x")
    handler.end_headers()


def hang_up(handler):
    handler.connection.close()


def say_nothing(handler):
    time.sleep(1)


def stop_half_way(handler):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(PACKED[:10])
    handler.wfile.flush()
    time.sleep(1)


def drip(handler):
    handler.send_response(200)
    handler.end_headers()
    for byte in PACKED * 9:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.02)


def never_end(handler):
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(2**16))


MISBEHAVIOURS = {
    redirect_to_a_page: "redirected to http://127.0.0.1:.*/login: not a gzip file; it begins with b'<!DOCTYPE html>",
    redirect_for_ever: "302",
    hang_up: "closed connection|reset|Remote end",
    say_nothing: "timed out",
    stop_half_way: "timed out",
    drip: "only .* bytes came in 0.4 seconds",
    never_end: "not a gzip file",
}


@pytest.mark.parametrize("do", MISBEHAVIOURS, ids=lambda do: do.__name__)
def test_a_server_that_misbehaves_gives_one_line_soon_and_leaves_nothing_behind(tmp_path, misbehave, files, monkeypatch, do):
    for name, limit in dict(SILENCE=0.3, PATIENCE=0.4, MAX_PACKED=2**20).items():
        monkeypatch.setitem(download_mnist.__globals__, name, limit)
    began = time.monotonic()
    with pytest.raises(OSError, match=MISBEHAVIOURS[do]) as error:
        download_mnist(tmp_path / "root", mirrors=[misbehave(do)])
    assert "no mirror gave train-images-idx3-ubyte" in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [] and time.monotonic() - began < 20


def test_an_unreachable_host_gives_one_line_and_leaves_nothing_behind(tmp_path, files, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(OSError, match=r"no mirror gave train-images.*127.0.0.1:9.*refused"):
        download_mnist(tmp_path / "root", mirrors=["http://127.0.0.1:9/"])
    assert list(tmp_path.iterdir()) == []


def test_a_failing_mirror_is_followed_by_the_next(tmp_path, serve, files):
    bad, _ = serve({})
    good, _ = serve(pages(files))
    download_mnist(tmp_path, mirrors=["http://127.0.0.1:9/", bad, good])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_disk_that_fails_while_writing_leaves_nothing_behind(tmp_path, serve, files, monkeypatch):
    def full(source, target):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    mirror, _ = serve(pages(files))
    with pytest.raises(OSError, match="No space"):
        download_mnist(tmp_path, mirrors=[mirror])
    assert list(tmp_path.iterdir()) == []
