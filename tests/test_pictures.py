"""digit_from_picture: MNIST's own digits, as stored and enlarged; pictures as people take them; what is no digit."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

from lesson.photo import digit_from_picture

SEVEN = [(0.14, 0.07), (0.84, 0.06), (0.42, 0.97)]
CLOSE = (300, 400), (75, 80)  # the size of a sheet that a digit nearly fills, and the digit's corner
TWO = [(0.17, 0.25), (0.3, 0.06), (0.7, 0.06), (0.82, 0.3), (0.17, 0.95), (0.85, 0.93)]


def sheet(stroke, size=(900, 1200), corner=(380, 470), pen=24, ink=(25, 25, 80), paper=(255, 255, 255)):
    """A digit in a box of 150x240 pixels on a sheet of paper."""
    picture = Image.new("RGB" if len(paper) == 3 else "RGBA", size, paper)
    points = [(corner[0] + 150 * x, corner[1] + 240 * y) for x, y in stroke]
    ImageDraw.Draw(picture).line(points, fill=ink, width=pen, joint="curve")
    return picture


def saved(picture, format="PNG", **options):
    """The picture, or the array, as a file in memory."""
    file = io.BytesIO()
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(file, format, **options)
    return file


def changed(picture, light=1.0, noise=0.0):
    """The picture under light, an array that broadcasts to (height, width, 3), with a camera's noise."""
    pixels = np.asarray(picture, float) * light
    return (pixels + np.random.default_rng(0).normal(0, noise, pixels.shape)).clip(0, 255).astype(np.uint8)


LINES = np.where(np.arange(1200)[:, None, None] % 80 < 3, (190, 208, 232), 255).astype(np.uint8)
FRAME_AND_SPECKS = np.zeros((1200, 900, 3), np.uint8)
FRAME_AND_SPECKS[4:-4, 4:-4] = 255
FRAME_AND_SPECKS[1150:1155, 860:865] = FRAME_AND_SPECKS[400:405, 90:160] = 0
BELOW = np.arange(1200)[:, None, None] - 500 - np.arange(900)[:, None] / 4.5  # pixels below a slanted line
ON_ITS_SIDE = Image.Exif()
ON_ITS_SIDE[0x0112] = 6  # a viewer turns it clockwise
KINDS = {
    "dark table": lambda stroke: ImageOps.expand(sheet(stroke, *CLOSE), 140, "darkslategray"),
    "brown, turned": lambda stroke: ImageOps.expand(sheet(stroke, *CLOSE), 140, "sienna").rotate(3, fillcolor="sienna"),
    "ruled paper": lambda stroke: np.minimum(sheet(stroke), LINES),
    "specks and a frame": lambda stroke: np.minimum(sheet(stroke), FRAME_AND_SPECKS),
    "soft shadow": lambda stroke: changed(sheet(stroke), np.interp(BELOW, [-60, 60], [1, 0.6])),
    "light from one side": lambda stroke: changed(sheet(stroke), np.linspace(1, 0.5, 900)[:, None]),
    "noise": lambda stroke: changed(sheet(stroke, paper=(215, 212, 205)), noise=15),
    "chalk": lambda stroke: changed(sheet(stroke, ink=(215, 220, 215), paper=(45, 70, 55)), noise=8),
    "red on yellow": lambda stroke: sheet(stroke, ink=(200, 40, 40), paper=(250, 240, 120)),
    "transparent": lambda stroke: sheet(stroke, ink=(0, 0, 0, 255), paper=(0, 0, 0, 0)),
    "16 bits": lambda stroke: (3000 + 224 * np.asarray(sheet(stroke).convert("L"), float)).astype(np.uint16),
    "EXIF": lambda stroke: saved(sheet(stroke).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=ON_ITS_SIDE),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stroke", [SEVEN, TWO], ids=["seven", "two"])
def test_the_digit_is_found(kind, stroke):
    picture = KINDS[kind](stroke)
    found = digit_from_picture(picture if isinstance(picture, io.BytesIO) else saved(picture))
    clean = digit_from_picture(saved(sheet(stroke, *CLOSE)))
    assert found.shape == (1, 28, 28) and found.dtype == torch.uint8 and found.max() == 255
    assert np.corrcoef(found.flatten(), clean.flatten())[0, 1] > 0.7  # a pixel aside: 0.76; seven and two: below 0.4


def test_mnist_comes_back_unchanged_and_moved_back_to_the_middle(mnist):
    off_centre = mnist[0][[19841, 23831, 45131]]  # by more than half a pixel, or by as good as half a pixel
    images = torch.cat([mnist[2], off_centre]).numpy()
    for number, image in enumerate(images):
        assert (digit_from_picture(saved(image))[0].numpy() == image).all(), number
    seven = images[0]
    for aside in (255 - seven, np.roll(seven, (-6, -4), (0, 1)), np.roll(seven, 5, 1)):  # the first is dark on light
        assert (digit_from_picture(saved(aside))[0].numpy() == seven).all()


@pytest.mark.parametrize("size, format", [(28, "JPEG"), (30, "PNG"), (40, "PNG"), (280, "PNG")])
@pytest.mark.parametrize("number", [9, 12, 17, 60, 117, 224, 445])  # of thin ink, with a gap, near the edge
def test_mnist_as_jpeg_and_enlarged_keeps_its_size_and_place(mnist, number, size, format):
    image = mnist[2][number].numpy()
    picture = Image.fromarray(255 - image).resize((size, size), Image.Resampling.BICUBIC)
    found = digit_from_picture(saved(picture, format))[0].numpy()
    assert np.corrcoef(found.flatten(), image.flatten())[0, 1] > 0.9  # a stroke as thick as in the original


BESIDE = np.minimum(sheet(TWO, (600, 400), (75, 80)), sheet(SEVEN, (600, 400), (330, 80)))
ABOVE = np.minimum(sheet(TWO, (300, 700), (75, 50)), sheet(SEVEN, (300, 700), (75, 380)))
REFUSED = {
    "black, 28x28": (Image.new("L", (28, 28)), "no strokes stand out"),
    "blank with noise": (changed(Image.new("RGB", (300, 400), "gainsboro"), noise=10), "no strokes stand out"),
    "a block": (sheet([(0.2, 0.5), (0.8, 0.5)], *CLOSE, pen=80), "no strokes stand out"),
    "a block of 28x28": (np.pad(np.full((12, 12), 255, np.uint8), 8), "ink fills its box"),
    "two digits, side by side": (BESIDE, "several digits"),
    "two digits, one above the other": (ABOVE, "several digits"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_digit_is_refused(case):
    picture, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        digit_from_picture(saved(picture))
