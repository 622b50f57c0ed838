"""A folder of pictures as data. Pillow reads them; matplotlib needs it anyway."""

from pathlib import Path

import numpy as np

from scratchdiff.checks import require, require_positive_integers

SUFFIXES = (".png", ".jpg", ".jpeg")


def read_images(folder, image_size: int) -> np.ndarray:
    """The PNG and JPEG files of a folder as (N, image_size, image_size, C) float32 in [−1, 1], in the order of their names.

    Each picture is turned upright by its EXIF tag, cropped to its largest central square, and resized with Pillow's
    antialiased Lanczos filter. C is 1 if every picture is grey, else 3. What is transparent becomes white.
    Raises ValueError for a folder without pictures, and for a file that is no picture, naming it.
    """
    from PIL import Image

    require_positive_integers("read_images", image_size=image_size)
    folder = Path(folder)
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    require(paths, f"read_images: {folder} holds no file that ends in {', '.join(SUFFIXES)}")
    pictures = []
    for path in paths:
        flat, grey = open_picture("read_images", path)
        side, (width, height) = min(flat.size), flat.size
        left, top = (width - side) // 2, (height - side) // 2
        square = flat.crop((left, top, left + side, top + side))
        pictures.append((grey, square.resize((image_size, image_size), Image.Resampling.LANCZOS)))
    mode = "L" if all(grey for grey, _ in pictures) else "RGB"
    pixels = np.stack([np.atleast_3d(np.asarray(picture.convert(mode))) for _, picture in pictures])
    return pixels.astype(np.float32) / 127.5 - 1


def open_picture(name: str, path):
    """(a PNG or JPEG file as an upright RGB image of Pillow on white, whether it was grey), or the ValueError of `name`."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
            grey = upright.mode in ("1", "L", "LA", "I", "I;16")
            layers = upright.convert("RGBA")
            white = Image.new("RGBA", layers.size, "white")
            return Image.alpha_composite(white, layers).convert("RGB"), grey
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: {path} is no picture that Pillow can read: {error}") from None
