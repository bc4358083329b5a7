import struct
import sys

import numpy as np
import pytest
from golden import by_pillow, images, png, refused
from PIL import Image

import larq_seresnet
from larq_seresnet.images import fit, image_files

GOLDEN = images()
REFUSED = refused()


@pytest.fixture
def without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)


def _read(folder, name, content, size=None):
    (folder / name).write_bytes(content)
    return larq_seresnet.read_image(folder / name, size)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_kind_of_image_means_its_pixels(tmp_path, name):
    _, content, pixels, tolerance = GOLDEN[name]
    found = _read(tmp_path, name, content)
    assert found.dtype == np.uint8
    assert found.shape == pixels.shape
    assert abs(found.astype(int) - pixels).max() <= tolerance


@pytest.mark.parametrize("name", GOLDEN)
def test_without_pillow_the_same_or_refused_by_name(tmp_path, without_pillow, name):
    _, content, pixels, _ = GOLDEN[name]
    try:
        found = _read(tmp_path, name, content)
    except ValueError as error:
        assert str(error).startswith(f"{tmp_path / name} must ")
        assert "Pillow" in str(error)
    else:
        np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_in_8_bits_is_refused(tmp_path, name):
    content, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        _read(tmp_path, name, content)
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("form", ["HH", "I"])
def test_orientation_has_16_or_32_bits_in_either_order(tmp_path, monkeypatch, prefix, order, form):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    entry = struct.pack(f"{order}HHI", 0x0112, 3 if form == "HH" else 4, 1)
    value = struct.pack(f"{order}{form}", *((6, 0) if form == "HH" else (6,)))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    exif = prefix + head + struct.pack(f"{order}H", 1) + entry + value + bytes(4)
    content = png(pixels, 8, 2, (b"eXIf", exif))
    turned = np.rot90(pixels, -1)
    np.testing.assert_array_equal(_read(tmp_path, "image.png", content), turned)
    monkeypatch.setitem(sys.modules, "PIL", None)
    np.testing.assert_array_equal(_read(tmp_path, "image.png", content), turned)


@pytest.mark.parametrize("size", [32, (0, 0), (32,), (32.0, 32), "ab"])
def test_a_size_that_is_none_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match="`size` must be None or height and width in pixels"):
        larq_seresnet.read_image(tmp_path / "none.png", size)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        larq_seresnet.read_image(tmp_path / "none.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_all_filters_of_png_are_read_without_pillow(tmp_path, monkeypatch, mode):
    """A ramp with noise, for which a writer uses all of them."""
    generator = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(40), np.arange(60))[..., np.newaxis] * np.array([1, 2, 1, 0.5])
    pixels = (ramp + generator.integers(0, 9, ramp.shape)).astype(np.uint8)
    content = by_pillow(pixels, "PNG", mode)
    expected = _read(tmp_path, "image.png", content)
    monkeypatch.setitem(sys.modules, "PIL", None)
    np.testing.assert_array_equal(_read(tmp_path, "image.png", content), expected)


@pytest.mark.parametrize("kind", range(5))
def test_every_filter_of_png_is_undone(kind):
    """Against the definition, pixel by pixel."""
    from larq_seresnet.images import _unfiltered

    rows = np.random.default_rng(kind).integers(0, 256, (2, 5, 3))
    filtered = np.zeros((5, 3), np.int64)
    for x in range(5):
        for c in range(3):
            left = rows[1, x - 1, c] if x else 0
            up, corner = rows[0, x, c], rows[0, x - 1, c] if x else 0
            nearest = min((left, up, corner), key=lambda value: abs(left + up - corner - value))
            guess = (0, left, up, (left + up) // 2, nearest)[kind]
            filtered[x, c] = (rows[1, x, c] - guess) % 256
    above, here = (each.astype(np.uint8).tobytes() for each in (rows[0], filtered))
    assert _unfiltered(kind, here, above, 3) == rows[1].astype(np.uint8).tobytes()


@pytest.mark.parametrize("pillow", [True, False])
@pytest.mark.parametrize(("ending", "lost"), [("png", 40), ("png", 900), ("ppm", 1), ("ppm", 900)])
def test_files_cut_off_anywhere_are_refused(tmp_path, monkeypatch, pillow, ending, lost):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    content = png(pixels, 8, 2) if ending == "png" else by_pillow(pixels, "PPM")
    if not pillow:
        monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=rf"cut\.{ending} is no image, or is damaged"):
        _read(tmp_path, f"cut.{ending}", content[:-lost])


def test_the_middle_is_averaged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    middle = pixels[:, 16:80].reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    found = _read(tmp_path, "wide.png", png(pixels, 8, 2), (32, 32))
    np.testing.assert_array_equal(found, np.floor(middle + 0.5))
    np.testing.assert_array_equal(fit(pixels[:32, :32], (32, 32)), pixels[:32, :32])
    np.testing.assert_array_equal(
        fit(pixels[:5, :5], (10, 10)), pixels[:5, :5].repeat(2, 0).repeat(2, 1)
    )


@pytest.mark.parametrize("shape", [(7, 9), (1, 1), (100, 3), (50, 61), (33, 32)])
@pytest.mark.parametrize("size", [(4, 4), (5, 3), (32, 32)])
def test_fit_is_the_mean_of_the_area_covered(shape, size):
    """Against every pixel cut into the parts that the result needs."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 2)).astype(np.uint8)
    (rows, columns), (height, width) = shape, size
    tall = max(1, min(rows, columns * height // width))
    wide = max(1, min(columns, rows * width // height))
    top, left = (rows - tall) // 2, (columns - wide) // 2
    parts = image[top : top + tall, left : left + wide].repeat(height, 0).repeat(width, 1)
    means = parts.reshape(height, tall, width, wide, 2).astype(int).sum(axis=(1, 3)) / (tall * wide)
    np.testing.assert_array_equal(fit(image, size), np.floor(means + 0.5))


def test_files_of_images_are_told_from_others(tmp_path):
    for name in ("b.JPG", "deep/er/a.webp", "c.heic", "notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, others = image_files(tmp_path)
    assert [path.name for path in found] == ["b.JPG", "a.webp"]
    assert [path.name for path in others] == ["c.heic", "notes.txt"]


def test_hidden_folders_do_not_count(tmp_path):
    """A notebook's copy of an image would be trained on and tested on."""
    for folder in ("", ".ipynb_checkpoints", "deeper", "deeper/.thumbnails"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "a.png").touch()
    assert image_files(tmp_path) == ([tmp_path / "a.png", tmp_path / "deeper" / "a.png"], [])


def test_a_folder_counts_once_whatever_links_lead_to_it(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "a.png").touch()
    (tmp_path / "cats" / "loop").symlink_to(tmp_path / "cats")
    (tmp_path / "others").symlink_to(tmp_path / "cats")
    assert image_files(tmp_path) == ([tmp_path / "cats" / "a.png"], [])
    assert image_files(tmp_path / "others") == ([tmp_path / "others" / "a.png"], [])


@pytest.mark.parametrize("depth", [2, 4])
def test_a_palette_of_few_bits_may_have_a_transparent_entry(tmp_path, depth):
    palette = np.random.default_rng(0).integers(0, 256, (2**depth, 3), dtype=np.uint8)
    places = np.random.default_rng(1).integers(0, 2**depth, (6, 5))
    alpha = bytes([255, 0])  # the second entry; others are opaque
    content = png(places, depth, 3, (b"PLTE", palette.tobytes()), (b"tRNS", alpha))
    palette[1] = 255
    np.testing.assert_array_equal(_read(tmp_path, "p.png", content), palette[places])


def test_odd_exif_beside_the_orientation_is_ignored(tmp_path):
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    resolution = struct.pack("<HHI4s", 0x011A, 2, 4, b"low\0")  # text, where it is a ratio
    exif = struct.pack("<2sHIH", b"II", 42, 8, 2) + orientation + resolution + bytes(4)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    found = _read(tmp_path, "p.png", png(pixels, 8, 2, (b"eXIf", exif)))
    np.testing.assert_array_equal(found, np.rot90(pixels, -1))


def test_an_older_pillow_reads_all_it_knows(tmp_path, monkeypatch):
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    assert _read(tmp_path, "p.png", png(np.zeros((2, 3, 3)), 8, 2)).shape == (2, 3, 3)


@pytest.mark.parametrize("size", [None, (3, 3), (2, 2)])
def test_what_is_read_can_be_written_to(tmp_path, size):
    found = _read(tmp_path, "p.png", png(np.ones((3, 3, 3)), 8, 2), size)
    found[:] = 7


def test_too_many_pixels_are_called_that(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(ValueError, match="has more pixels than Pillow reads: Image size"):
        _read(tmp_path, "p.png", png(np.zeros((3, 3, 3)), 8, 2))


def test_an_image_too_large_for_the_memory_is_not_called_damaged(tmp_path, monkeypatch):
    def decode(content):
        raise MemoryError

    monkeypatch.setattr(larq_seresnet.images, "_decode_with_pillow", decode)
    with pytest.raises(MemoryError):
        _read(tmp_path, "p.png", png(np.zeros((3, 3, 3)), 8, 2))
