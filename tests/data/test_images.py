"""Pictures of a folder come out square, in order, and in the range that the models use."""

import numpy as np
import pytest
from PIL import Image

from scratchdiff.data import read_images


def save(folder, name, pixels, **settings):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(folder / name, **settings)


def test_grey_pictures_of_the_right_size_keep_their_pixels_and_their_order(tmp_path, rng):
    first, second = rng.integers(0, 256, (2, 8, 8))
    save(tmp_path, "b.png", second)
    save(tmp_path, "a.png", first)
    x = read_images(tmp_path, 8)
    assert x.shape == (2, 8, 8, 1) and x.dtype == np.float32
    np.testing.assert_allclose(x[..., 0], np.stack([first, second]) / 127.5 - 1, atol=1e-6)


def test_a_wide_picture_is_cropped_to_its_central_square_and_averaged_down(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = 255, 0, 0  # the central square is red, the rest black
    save(tmp_path, "wide.png", pixels)
    x = read_images(tmp_path, 4)
    assert x.shape == (1, 4, 4, 3)
    np.testing.assert_allclose(x[0], np.broadcast_to([1, -1, -1], (4, 4, 3)), atol=0.02)


def test_one_coloured_picture_makes_all_of_them_coloured_and_transparency_is_white(tmp_path):
    save(tmp_path, "grey.png", np.full((4, 4), 100))
    save(tmp_path, "clear.png", np.zeros((4, 4, 4)))  # black, wholly transparent
    x = read_images(tmp_path, 4)
    assert x.shape == (2, 4, 4, 3)
    np.testing.assert_allclose(x[0], 1)


def test_a_photograph_is_turned_upright(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    save(tmp_path, "photo.jpg", pixels, exif=exif, quality=95)
    x = read_images(tmp_path, 8)
    assert x[0, 0].mean() < -0.9 and x[0, -1].mean() > 0.9


def test_what_is_no_picture_is_refused_by_its_name(tmp_path):
    with pytest.raises(ValueError, match="holds no file that ends in .png"):
        read_images(tmp_path, 8)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match="text.png is no picture"):
        read_images(tmp_path, 8)
