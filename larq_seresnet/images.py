"""From an image file to the bytes that a network takes, the same for training and for devices.

Needs only NumPy and Pillow, and for PNG and PPM not even Pillow: a device gets this very file.
"""

import io
import os
import pathlib
import re
import struct
import zlib

import numpy as np

#: Pillow's formats that are read, by file ending. Others need an external program, as EPS does, or
#: are no photographs.
FORMATS = {
    "AVIF": (".avif",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
ENDINGS = tuple(ending for endings in FORMATS.values() for ending in endings)
_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type: grey, RGB, both with alpha
_PNG_GREY, _PNG_RGB = 0, 2
_EXIF_ORIENTATION = 0x0112
_EXIF_SHORT = 3  # the type of a number of 16 bits; others have 32
_TIFF_BITS = 258


def read_image(path, size=(32, 32)):
    """Reads an image file as the network sees it, in training and on every device.

    1. The first frame is rotated by its EXIF orientation.
    2. Grey becomes three equal channels, palettes and CMYK become RGB, and transparent pixels are
       placed on white. Of 16 bits per channel the upper eight remain. Colour profiles are ignored.
    3. The image is cropped to the largest central rectangle with the aspect ratio of `size`, by
       default the central square.
    4. Each pixel of the result is the rounded mean of the area that it covers.

    Args:
        path: A file that Pillow reads: JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF, PPM or PGM. Without
            Pillow: PNG with 8 bits per channel, and binary PPM and PGM.
        size: Height and width in pixels; None keeps those of the file and skips steps 3 and 4.

    Returns:
        uint8, 0..255, RGB, (H, W, 3), as `preprocess_input` takes it.

    Raises:
        FileNotFoundError: If there is no such file.
        MemoryError: If it is too large for this machine.
        ValueError: If it is no image, is damaged, has more pixels than Pillow reads (some 179
            million), or pixels without a unique meaning in 8 bits, such as floats; the message
            begins with the path. If `size` is no height and width.
    """
    if size is not None:
        _check_size(size)
    content = pathlib.Path(path).read_bytes()
    try:
        image = _decode_with_pillow(content) if _has_pillow() else _decode(content)
    except _Refused as reason:
        raise ValueError(f"{path} {reason}.") from None
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file a decoder raises nearly anything
        what = " ".join(str(error).split()) or type(error).__name__
        what = what.partition(" <")[0]  # what Python calls the bytes in memory
        raise ValueError(f"{path} is no image, or is damaged: {what}") from error
    return np.array(image if size is None else fit(image, size))  # the caller's own


def _check_size(size):
    is_pair = isinstance(size, (tuple, list)) and len(size) == 2
    if not is_pair or not all(hasattr(side, "__index__") and side > 0 for side in size):
        raise ValueError(f"`size` must be None or height and width in pixels, received {size!r}.")


def fit(image, size):
    """Steps 3 and 4 of `read_image`, in integers: every program gets the same bytes.

    Args:
        image: uint8, (H, W, C).
        size: Height and width of the result in pixels.

    Returns:
        uint8, (*size, C).
    """
    height, width = size
    rows, columns = image.shape[:2]
    tall = max(1, min(rows, columns * height // width))
    wide = max(1, min(columns, rows * width // height))
    top, left = (rows - tall) // 2, (columns - wide) // 2
    image = image[top : top + tall, left : left + wide]
    if (tall, wide) == (height, width):
        return image
    sums = _sums(_sums(image, height).swapaxes(0, 1), width).swapaxes(0, 1).astype(np.int64)
    area = tall * wide  # of a pixel of the result, where one of `image` is height * width
    return ((2 * sums + area) // (2 * area)).astype(np.uint8)


def _sums(values, parts):
    """Sums of `values` over equal parts of the first axis, a value counting `parts` times.

    Floats, for speed: integers below 2**53, so exact.
    """
    count, sums = len(values), []
    for start in range(0, parts * count, count):
        inside = np.arange(start // parts, -(-(start + count) // parts))
        first, last = inside * parts, (inside + 1) * parts
        share = np.minimum(last, start + count) - np.maximum(first, start)
        sums.append(np.tensordot(share.astype(np.float64), values[inside], axes=1))
    return np.stack(sums)


class _Refused(Exception):
    """A file that is whole, but not one of those that are read: what follows its path."""


def on_white(pixels):
    """RGB of uint8 (H, W, 4), RGB and alpha, on white."""
    colours, alpha = pixels[..., :3].astype(np.int32), pixels[..., 3:].astype(np.int32)
    return ((colours * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _has_pillow():
    try:
        import PIL  # noqa: F401
    except ImportError:
        return False
    return True


def _decode_with_pillow(content):
    from PIL import Image

    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # Pillow before 11.2 has no AVIF
    try:
        image = Image.open(io.BytesIO(content), formats=known)
    except Image.DecompressionBombError as error:
        raise _Refused(f"has more pixels than Pillow reads: {error}") from error
    with image:
        image.load()  # which turns a TIFF, and its orientation is noted no more
        _check_meaning(image, content)
        return _turned(_rgb(image), image.getexif().get(_EXIF_ORIENTATION, 1))


def _rgb(image):
    """The pixels of Pillow's image, uint8 (H, W, 3)."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _repeated((np.asarray(image).astype(np.int32) >> 8).astype(np.uint8))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        return on_white(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _check_meaning(image, content):
    """Refuses what Pillow would turn into other pixels than the file means, and say nothing."""
    mode, of_16_bits = image.mode, ("PNG", "PPM")
    if mode == "I" and image.format not in of_16_bits:
        raise _Refused(f"has 32-bit integers or signed ones ({image.format}), without a white")
    if mode.startswith("I;16") and image.format == "TIFF":
        (bits,) = image.tag_v2.get(_TIFF_BITS, (16,))
        if bits != 16:
            raise _Refused(f"has {bits} bits a pixel in 16: save it with 8 or 16")
    readable = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
    if mode not in (*readable, "I") and not mode.startswith("I;16"):
        raise _Refused(f"has pixels of the kind {mode!r}: save it as grey or RGB, 8 or 16 bits")
    levels = isinstance(image.info.get("transparency"), (int, tuple)) and mode != "P"
    if image.format == "PNG" and levels:  # of a palette it is a place, whatever the depth
        depth = content[24]
        if depth not in (1, 8):
            raise _Refused(f"names a transparent colour in {depth} bits: save it with 8 bits")


def _decode(content):
    """PNG and PPM without Pillow."""
    if content[:2] in (b"P5", b"P6"):
        return _decode_ppm(content)
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise _Refused("must be PNG, or binary PPM or PGM, where Pillow is not installed")
    return _decode_png(content)


def _decode_ppm(content):
    header = re.match(rb"P([56])\s+(\d+)\s+(\d+)\s+255\s", content)
    if not header:
        raise _Refused("must have 8 bits a channel and no comments, or Pillow must be installed")
    channels, width, height = 1 if header[1] == b"5" else 3, int(header[2]), int(header[3])
    pixels = np.frombuffer(content, np.uint8, offset=header.end())
    if not pixels.size or pixels.size < width * height * channels:
        raise ValueError(f"{width}x{height} pixels are {width * height * channels} bytes")
    pixels = pixels[: width * height * channels].reshape(height, width, channels)
    return _repeated(pixels[..., 0]) if channels == 1 else pixels


def _decode_png(content):
    chunks = _png_chunks(content)
    header = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    width, height, depth, colours, _, _, interlaced = header
    text = b"".join(chunks.get(kind, b"") for kind in (b"tEXt", b"zTXt", b"iTXt"))
    hints = (b"Raw profile type exif", b"Orientation", b"XML:com.adobe.xmp\0\1")  # or compressed
    oriented = any(hint in text for hint in hints)
    if depth != 8 or colours not in _PNG_CHANNELS or interlaced or b"tRNS" in chunks or oriented:
        raise _Refused(
            "must have 8 bits a channel, no palette, no transparent colour, no orientation in its "
            "text and no interlacing, or Pillow must be installed"
        )
    channels = _PNG_CHANNELS[colours]
    filtered = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8)
    lines = [bytes(width * channels)]
    for line in filtered.reshape(height, 1 + width * channels):
        lines.append(_unfiltered(line[0], line[1:].tobytes(), lines[-1], channels))
    pixels = np.frombuffer(bytearray().join(lines[1:]), np.uint8)
    image = pixels.reshape(height, width, channels)
    if channels < 3:
        image = np.concatenate([_repeated(image[..., 0]), image[..., 1:]], axis=-1)
    image = on_white(image) if image.shape[-1] == 4 else image
    return _turned(image, _exif_orientation(chunks.get(b"eXIf", b"")))


def _png_chunks(content):
    """The chunks of a PNG by kind; of one kind one after another."""
    chunks, start = {}, 8
    while start + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, start)
        body = content[start + 8 : start + 8 + size]
        (checksum,) = struct.unpack_from(">I", content, start + 8 + size)
        if zlib.crc32(kind + body) != checksum:
            raise ValueError("a checksum is wrong")
        chunks[kind] = chunks.get(kind, b"") + body
        start += 12 + size
    if b"IEND" not in chunks:
        raise ValueError("it was cut off")
    return chunks


def _unfiltered(kind, line, above, step):
    """A line of a PNG, bytes, without its filter; that above it is so already.

    Args:
        step: Bytes a pixel.
    """
    if kind > 4:
        raise ValueError(f"there is no filter {kind}")
    if kind == 0:
        return line
    if kind < 3:
        pixels, others = (np.frombuffer(each, np.uint8).reshape(-1, step) for each in (line, above))
        left_or_above = np.cumsum(pixels, 0, np.uint8) if kind == 1 else pixels + others
        return left_or_above.tobytes()
    here, above = bytearray(step) + line, bytes(step) + above  # nothing to the left
    for at in range(step, len(here)):  # plain numbers: faster than arrays of a pixel
        left, up, corner = here[at - step], above[at], above[at - step]
        if kind == 3:  # the mean of both
            guess = (left + up) // 2
        else:  # Paeth: whichever of the three is closest to left + up - corner
            from_left, from_up = abs(up - corner), abs(left - corner)
            from_corner = abs(left + up - 2 * corner)
            if from_left <= from_up and from_left <= from_corner:
                guess = left
            else:
                guess = up if from_up <= from_corner else corner
        here[at] = (here[at] + guess) & 255
    return bytes(here[step:])


def _exif_orientation(exif):
    """1 to 8; 1, upright, where it is not noted."""
    exif = exif.removeprefix(b"Exif\0\0")
    if not exif:
        return 1
    order = {b"II": "<", b"MM": ">"}[exif[:2]]
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
        if tag == _EXIF_ORIENTATION:
            form = "H" if kind == _EXIF_SHORT else "I"
            return struct.unpack_from(f"{order}{form}", exif, entry + 8)[0]
    return 1


def _turned(image, orientation):
    """Undoes an EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


def _repeated(grey):
    return np.repeat(grey[..., np.newaxis], 3, axis=-1)


def image_files(folder):
    """The files in a folder and in those below it: those with the ending of an image, and others.

    What is hidden, file or folder, is in neither, for systems leave it behind; a folder that links
    lead to more than once counts once.
    """
    found, seen = [], set()
    for path, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(path)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found.append((path, names))
    images, others = [], []
    for path, names in sorted(found):
        for name in sorted(names):
            if not name.startswith("."):
                ours = images if name.lower().endswith(ENDINGS) else others
                ours.append(pathlib.Path(path) / name)
    return images, others
