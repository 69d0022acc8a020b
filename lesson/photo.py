"""A picture of your own digit becomes what MNIST is: bright ink on black, 28x28 pixels. digit_from_picture does it."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy import ndimage
from skimage import filters, measure, segmentation


def read_grey(path) -> np.ndarray:
    """A picture's brightness, upright, 0 to 255: float (rows, columns), the longer side 400, or at most 28 as it is."""
    picture = Image.open(path)
    picture.draft(None, (800, 800))  # a large JPEG is read at a fraction of its size
    picture = ImageOps.exif_transpose(picture)  # as phones store it
    if picture.mode[0] in "IF":  # 16 bits and more: the brightest pixel is white
        values = np.asarray(picture, dtype=float)
        picture = Image.fromarray((values * 255 / max(values.max(), 1)).clip(0).round().astype(np.uint8))
    picture = picture.convert("RGBA")
    if max(picture.size) > 28:
        picture = ImageOps.contain(picture, (400, 400))
    on_white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(on_white.convert("L"), dtype=float)


@dataclass
class Part:
    """A part of a picture that may be ink: where it is, as scikit-image says it, and how much it stands out."""

    region: object  # of skimage.measure.regionprops: bbox, slice, image, area
    sign: int  # 1: dark on light; -1: light on dark
    strength: float


def mark_strokes(light: np.ndarray, sign: int) -> tuple[np.ndarray, float]:
    """Where a picture is darker (sign 1) or lighter (-1) than the paper near by, (rows, columns) bool; and by how much.

    light is the logarithm of brightness: there a shadow is only subtracted, and black_tophat takes it away.
    """
    wide = 133  # no stroke is as wide, a third of the picture
    depth = ndimage.black_tophat(sign * light, wide, mode="nearest")  # 0 on paper
    level = np.percentile(depth[depth >= filters.threshold_otsu(depth)], 90)  # of plain ink
    halfway = abs(np.log((1 + np.exp(-sign * level)) / 2))  # in brightness, or dark strokes would get too thin
    return depth > halfway, level


def find_parts(light: np.ndarray, sign: int) -> list[Part]:
    """The parts of a picture that may be dark (sign 1) or light (-1) strokes: long, off the edge, unlike the paper."""
    strokes, level = mark_strokes(light, sign)
    joined = measure.label(ndimage.binary_dilation(strokes, iterations=3))  # over small gaps
    inside = segmentation.clear_border(joined, buffer_size=4)  # without frames, and the table under the sheet
    parts = []
    for region in measure.regionprops(inside * strokes):
        length = max(region.image.shape)
        near = length // 10 + 1
        top, left, bottom, right = region.bbox
        around = np.median(light[max(top - near, 0) : bottom + near, max(left - near, 0) : right + near])
        ink = np.median(light[region.slice][region.image])
        if length > 20 and sign * (around - ink) > max(level / 3, 0.05):  # unlike the paper between strokes
            is_sheet = region.solidity > 0.85 and min(region.image.shape) > 0.4 * length
            parts.append(Part(region, sign, 0 if is_sheet else length * level))
    return parts


def are_two_digits(one, other) -> bool:
    """Whether two regions are of like height, and side by side or one well above the other.

    A digit's own parts lie above each other, too, but closer: a 5 and its bar, a 3 written in two.
    """
    (top, left, bottom, right), (other_top, other_left, other_bottom, other_right) = one.bbox, other.bbox
    low, high = sorted([bottom - top, other_bottom - other_top])
    beside = left >= other_right or right <= other_left
    above = max(top - other_bottom, other_top - bottom) > high / 5
    return low > high / 2 and (beside or above)


def find_strokes(grey: np.ndarray, path) -> np.ndarray:
    """The strokes of a digit, dark on light or light on dark: 255 where there is ink, else 0.

    grey is what read_grey makes of the file path, 400 pixels long. Leaves out shadows, specks, faint lines, and what
    touches the edge. Raises ValueError where no stroke stands out from what is around it, and for several digits.
    """
    light = ndimage.gaussian_filter(np.log(grey + 20), 1)  # + 20: noise in what is nearly black is no contrast
    parts = find_parts(light, 1) + find_parts(light, -1)
    if not parts:
        raise ValueError(f"{path}: no strokes stand out from the paper; write with a thicker pen, away from the edge")
    main = max(parts, key=lambda part: part.strength)
    ink = np.zeros(grey.shape)
    for part in parts:
        if part.sign == main.sign and part.region.area > 0.1 * main.region.area:
            if are_two_digits(part.region, main.region):
                raise ValueError(f"{path}: several digits, side by side or one above the other; cut out one")
            ink[part.region.slice][part.region.image] = 255
    return ink


def digit_from_picture(path) -> torch.Tensor:
    """The digit on a photo, scan or drawing, as MNIST stores digits: uint8 (1, 28, 28), bright ink on black.

    As MNIST's makers did (LeCun et al. 1998, section III.A), it scales the digit's longer side to 20 pixels and puts
    its centre of mass in the middle: at pixel (14, 14), where it is in their files. A picture of at most 28x28 pixels
    is not cleaned, nor is a digit of at most 20 pixels in it scaled, nor moved by less than a pixel: so every digit of
    MNIST comes back unchanged. Two digits that touch are taken for one, as are two closer than a
    fifth of their height one above the other.
    Raises ValueError, naming the file and a remedy, for what is no single digit.
    """
    grey = read_grey(path)
    is_small = max(grey.shape) <= 28
    ink = abs(grey - np.median(grey)) if is_small else find_strokes(grey, path)
    if not ink.any():
        raise ValueError(f"{path}: no strokes stand out, all pixels are alike; take a picture of a digit")
    strong = ink > 0.15 * ink.max()  # a JPEG's paper is not quite even
    rows, columns = strong.any(1).nonzero()[0], strong.any(0).nonzero()[0]
    crop = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if crop.mean() > 0.8 * crop.max() and min(crop.shape) > 0.4 * max(crop.shape):
        raise ValueError(f"{path}: ink fills its box, which no digit does; leave paper around the strokes")
    if is_small and max(crop.shape) <= 20:
        return in_the_middle(ink, near=1)  # MNIST's own are up to 0.52 aside
    height, width = (max(1, round(20 * side / max(crop.shape))) for side in crop.shape)
    scaled = np.asarray(Image.fromarray(crop.astype(np.float32)).resize((width, height), Image.Resampling.HAMMING))
    return in_the_middle(scaled * 255 / scaled.max())


def in_the_middle(ink: np.ndarray, near=0.5) -> torch.Tensor:
    """uint8 (1, 28, 28): ink, its centre of mass moved to pixel (14, 14) by whole pixels, unless it is that near."""
    aside = np.array(ndimage.center_of_mass(ink)) - 14
    top, left = 28 + np.where(abs(aside) < near, 0, aside.round()).astype(int)
    digit = np.pad(ink, 28)[top : top + 28, left : left + 28]
    return torch.from_numpy(digit.round().astype(np.uint8))[None]
