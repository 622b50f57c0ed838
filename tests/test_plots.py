"""Pictures hold what they are given, read back from the file."""

import numpy as np
import pytest
from PIL import Image

import scratchdiff as sd
from scratchdiff import plots


def test_a_grid_shows_every_image_row_by_row_with_black_minus_one_and_white_one():
    images = np.stack([np.full((4, 3, 1), v) for v in (-1.0, 0.0, 1.0, 5.0, -5.0)])
    picture = plots.grid(images, columns=3, gap=1)
    assert picture.shape == (2 * 5 + 1, 3 * 4 + 1) and picture.dtype == np.uint8
    assert [picture[2, 2], picture[2, 6], picture[2, 10], picture[7, 2], picture[7, 6]] == [0, 128, 255, 255, 0]


def test_a_grid_of_colours_keeps_them(tmp_path):
    red = np.full((1, 2, 2, 3), -1.0)
    red[..., 0] = 1
    plots.save_images(tmp_path / "sub" / "red.png", red, scale=3)
    with Image.open(tmp_path / "sub" / "red.png") as picture:
        assert picture.size == (18, 18) and picture.getpixel((9, 9)) == (255, 0, 0)


def test_a_gif_has_every_frame_in_order_and_holds_the_last(tmp_path):
    frames = [np.full((5, 7), v, np.uint8) for v in (0, 100, 200)]
    plots.save_gif(tmp_path / "a.gif", frames, milliseconds=50, hold=1000, scale=2)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3 and gif.size == (14, 10)
        seen = []
        for k in range(3):
            gif.seek(k)
            seen.append((gif.convert("L").getpixel((3, 3)), gif.info["duration"]))
    assert seen == [(0, 50), (100, 50), (200, 1000)]


def test_the_plots_write_pictures_of_a_readable_size(tmp_path, rng):
    cloud = rng.standard_normal((50, 2))
    image = rng.uniform(-1, 1, (3, 8, 8, 1))
    plots.save_loss(tmp_path / "loss.png", np.exp(-np.arange(100) / 30))
    plots.save_strip(tmp_path / "strip.png", [image, image], ["t = 1", "t = 2"], "title")
    plots.save_clouds(tmp_path / "clouds.png", [cloud, cloud], ["a", "b"])
    plots.save_bound(tmp_path / "bound.png", {"one": sd.Bound(rng.random((3, 21)), 2)}, truth=1.0)
    plots.save_field(tmp_path / "field.png", lambda x, t: -x * t, [cloud, cloud], [1, 5])
    for path in tmp_path.iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 200 and len(set(picture.convert("L").tobytes())) > 5, path.name
    frame = plots.cloud_frame(cloud, "t = 3")
    assert frame.ndim == 3 and frame.shape[2] == 3 and frame.min() < 100 < frame.max()


@pytest.mark.parametrize("call", [
    lambda path: plots.grid(np.zeros((0, 4, 4, 1))),
    lambda path: plots.grid(np.zeros((2, 4, 4))),
    lambda path: plots.save_gif(path, []),
    lambda path: plots.save_loss(path, []),
    lambda path: plots.save_strip(path, [np.zeros((1, 4, 4, 1))], []),
    lambda path: plots.save_clouds(path, [], []),
    lambda path: plots.save_bound(path, {}),
])  # fmt: skip
def test_nothing_to_draw_is_refused_and_nothing_written(call, tmp_path):
    with pytest.raises(ValueError):
        call(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_curves_fill_their_panels_and_refuse_to_draw_nothing(tmp_path):
    one = dict(
        curves={"learned": ([1, 10], [1, 0.1]), "floor": ([1, 10], [0.1, 0.01])}, xlabel="t", ylabel="loss", title="x"
    )
    plots.save_curves(tmp_path / "curves.png", [one, one | dict(xscale="linear")], "both")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1612, 572) and len(picture.convert("L").getcolors()) > 20
    with pytest.raises(ValueError, match="save_curves: no panels"):
        plots.save_curves(tmp_path / "none.png", [])


def test_with_none_for_the_path_nothing_is_written_and_the_figure_comes_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figure = plots.save_loss(None, [3.0, 2.0, 1.0])
    assert figure._repr_png_().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == []
    same = plots.save_loss("loss.png", [3.0, 2.0, 1.0])
    assert [len(ax.lines) for ax in same.axes] == [2] and (tmp_path / "loss.png").exists()
    assert plots.save_images(None, np.zeros((3, 4, 4, 1))).size == (28, 28)
    assert sd.linear_schedule()._repr_png_().startswith(b"\x89PNG")
