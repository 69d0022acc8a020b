"""digit_from_picture: MNIST's own digits, as stored and enlarged; pictures as people take them; what is no digit."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from helpers import read_mnist
from lesson.photo import digit_from_picture

SEVEN = [(0.14, 0.07), (0.84, 0.06), (0.42, 0.97)]
TWO = [(0.17, 0.25), (0.3, 0.06), (0.7, 0.06), (0.82, 0.3), (0.17, 0.95), (0.85, 0.93)]


def sheet(stroke, size=(300, 400), corner=(75, 80), pen=24, ink=(25, 25, 80), paper=(255, 255, 255)):
    """A digit in a box of 150x240 pixels on a sheet of paper."""
    picture = Image.new("RGB", size, paper)
    points = [(corner[0] + 150 * x, corner[1] + 240 * y) for x, y in stroke]
    ImageDraw.Draw(picture).line(points, fill=ink, width=pen, joint="curve")
    return picture


def small(stroke, **look):
    return sheet(stroke, (900, 1200), (380, 470), **look)


def saved(picture, format="PNG", **options):
    """The picture, or the array, as a file in memory."""
    file = io.BytesIO()
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(file, format, **options)
    return io.BytesIO(file.getvalue())


def changed(picture, light=1.0, noise=0.0):
    """The picture under light, an array that broadcasts to (height, width), with a camera's noise."""
    pixels = np.asarray(picture, float)
    pixels = pixels * np.broadcast_to(light, pixels.shape[:2])[..., None]
    return (pixels + np.random.default_rng(0).normal(0, noise, pixels.shape)).clip(0, 255).astype(np.uint8)


def shadow(stroke, depth, blur):
    mask = Image.new("L", (900, 1200), 255)
    ImageDraw.Draw(mask).polygon([(0, 1200), (0, 500), (900, 700), (900, 1200)], fill=depth)
    return changed(small(stroke), np.asarray(mask.filter(ImageFilter.GaussianBlur(blur))) / 255)


def beside(stroke, method, places, **options):
    """A small digit, and what a method of ImageDraw draws at the places."""
    picture = small(stroke)
    for place in places:
        getattr(ImageDraw.Draw(picture), method)(place, **options)
    return np.minimum(picture, small(stroke))


def on_table(stroke, colour, angle):
    table = Image.new("RGB", (600, 700), colour)
    table.paste(sheet(stroke), (140, 140))
    return table.rotate(angle, resample=Image.Resampling.BICUBIC, fillcolor=colour)


def transparent(stroke):
    picture = sheet(stroke, ink=(0, 0, 0)).convert("RGBA")
    picture.putalpha(Image.fromarray(255 - np.asarray(picture.convert("L"))))
    return picture


def turned_by_exif(stroke):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: a viewer turns it clockwise
    return saved(sheet(stroke).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


LINES = [(0, y, 900, y + 60) for y in range(-60, 1200, 80)]
SPECKS = [(x, y, x + 5, y + 5) for x, y in ((860, 1150), (90, 400), (600, 500))]
KINDS = {
    "small": small,
    "dark table": lambda stroke: on_table(stroke, (90, 60, 40), 0),
    "brown table, a little turned": lambda stroke: on_table(stroke, (150, 110, 70), 3),
    "ruled paper": lambda stroke: beside(stroke, "line", LINES, fill=(190, 208, 232), width=3),
    "specks": lambda stroke: beside(stroke, "ellipse", SPECKS, fill="black"),
    "frame": lambda stroke: beside(stroke, "rectangle", [(0, 0, 899, 1199)], outline="black", width=4),
    "soft shadow": lambda stroke: shadow(stroke, 150, 30),
    "sharp shadow": lambda stroke: shadow(stroke, 100, 3),
    "light from one side": lambda stroke: changed(small(stroke), np.linspace(1, 0.5, 900)),
    "noise": lambda stroke: changed(small(stroke, paper=(215, 212, 205)), noise=15),
    "chalk": lambda stroke: changed(small(stroke, ink=(215, 220, 215), paper=(45, 70, 55)), noise=8),
    "red on yellow": lambda stroke: small(stroke, ink=(200, 40, 40), paper=(250, 240, 120)),
    "CMYK": lambda stroke: saved(sheet(stroke).convert("CMYK"), "JPEG"),
    "transparent": transparent,
    "16 bits": lambda stroke: (3000 + 224 * np.asarray(sheet(stroke).convert("L"), float)).astype(np.uint16),
    "turned by EXIF": turned_by_exif,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stroke", [SEVEN, TWO], ids=["seven", "two"])
def test_the_digit_is_found(kind, stroke):
    picture = KINDS[kind](stroke)
    found = digit_from_picture(picture if isinstance(picture, io.BytesIO) else saved(picture))
    clean = digit_from_picture(saved(sheet(stroke)))
    assert found.shape == (1, 28, 28) and found.dtype == torch.uint8 and found.max() == 255
    assert np.corrcoef(found.flatten(), clean.flatten())[0, 1] > 0.7  # a pixel aside: 0.76; seven and two: below 0.4


@pytest.fixture(scope="module")
def mnist():
    return read_mnist()


def test_mnist_comes_back_unchanged(mnist):
    training_images, _, images, _ = mnist
    off_centre = training_images[[19841, 23831, 45131]]  # by more than half a pixel, or by as good as half a pixel
    images = torch.cat([images, off_centre]).numpy()
    assert len(images) == 10_003
    for number, image in enumerate(images):
        assert (digit_from_picture(saved(image))[0].numpy() == image).all(), number
    assert (digit_from_picture(saved(255 - image))[0].numpy() == image).all()  # dark on light


@pytest.mark.parametrize("quality", [75, 95])
def test_mnist_as_jpeg_keeps_its_size_and_place(mnist, quality):
    for image in mnist[2][:100].numpy():
        found = digit_from_picture(saved(255 - image, "JPEG", quality=quality))[0].numpy()
        assert np.corrcoef(found.flatten(), image.flatten())[0, 1] > 0.98


@pytest.mark.parametrize("middle", [(8, 10), (14, 19)], ids=str)
def test_a_digit_aside_in_28_pixels_is_moved_to_the_middle(mnist, middle):
    image = mnist[2][0].numpy()  # a seven
    aside = np.roll(image, np.subtract(middle, 14), axis=(0, 1))
    assert (digit_from_picture(saved(aside))[0].numpy() == image).all()


@pytest.mark.parametrize("size", [30, 40, 280])
@pytest.mark.parametrize("number", [9, 12, 17, 60, 117, 224, 445])  # of thin ink, with a gap, near the edge
def test_enlarged_mnist_is_found(mnist, number, size):
    image = mnist[2][number].numpy()
    enlarged = Image.fromarray(255 - image).resize((size, size), Image.Resampling.BICUBIC)
    found = digit_from_picture(saved(enlarged))[0].numpy()
    assert np.corrcoef(found.flatten(), image.flatten())[0, 1] > 0.9  # a stroke as thick as in the original


BLANK = Image.new("RGB", (300, 400), (215, 212, 205))
BESIDE = np.minimum(sheet(TWO, (600, 400), (75, 80)), sheet(SEVEN, (600, 400), (330, 80)))
ABOVE = np.minimum(sheet(TWO, (300, 700), (75, 50)), sheet(SEVEN, (300, 700), (75, 380)))
REFUSED = [
    ("black, 28x28", Image.new("L", (28, 28)), "no strokes stand out"),
    ("blank", BLANK, "no strokes stand out"),
    ("blank with noise", changed(BLANK, noise=10), "no strokes stand out"),
    ("a block", sheet([(0.2, 0.5), (0.8, 0.5)], pen=80), "no strokes stand out|ink fills its box"),
    ("two digits, side by side", BESIDE, "several digits"),
    ("two digits, one above the other", ABOVE, "several digits"),
]


@pytest.mark.parametrize("name, picture, message", REFUSED)
def test_what_is_no_digit_is_refused(name, picture, message):
    with pytest.raises(ValueError, match=message):
        digit_from_picture(saved(picture))
