"""Pictures of every kind that data sets hold: their size without decoding, and their pixels upright on white."""

import base64
import functools
import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mlxtune.errors import DataError
from mlxtune.images import ImageRef, StoredImage, image_ref

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def sideways(form: str, orientation: int = 6, **options) -> bytes:
    """6 x 4 as stored; the stored top row is red, so that it is the right column once turned by orientation 6."""
    image = Image.new("RGB", (6, 4), WHITE)
    image.paste(RED, (0, 0, 6, 1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, form, exif=exif, **options)


def late_exif() -> bytes:
    """A PNG whose orientation stands behind its pixels."""
    plain, exif = encoded(Image.new("RGB", (6, 4), WHITE)), Image.Exif()
    exif[0x0112] = 6
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\x00\x00")
    return plain[:-12] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + plain[-12:]


def half_clear(mode: str) -> bytes:
    """Left half red (or black) and opaque, right half clear with black below."""
    image = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    image.paste((*RED, 255), (0, 0, 3, 4))
    return encoded(image.convert(mode))


def clear_palette() -> bytes:
    image = Image.new("P", (6, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.paste(1, (3, 0, 6, 4))
    return encoded(image, transparency=1)


def animated() -> bytes:
    frames = [Image.new("RGB", (6, 4), color) for color in (RED, (0, 0, 255))]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def grey16(form: str = "PNG", mode: str = "I;16") -> bytes:
    kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    values = np.array([[0, 32768, 65535]], dtype=np.uint16).astype(kinds[mode])
    return encoded(Image.fromarray(values), form)


CASES = {  # name: content, size, left-most and right-most pixel of the first row
    "rgb": (encoded(Image.new("RGB", (6, 4), RED)), (6, 4), RED, RED),
    "rgba": (half_clear("RGBA"), (6, 4), RED, WHITE),
    "grey with alpha": (half_clear("LA"), (6, 4), (76, 76, 76), WHITE),
    "palette, transparent": (clear_palette(), (6, 4), RED, WHITE),
    "rgb, transparent": (encoded(Image.new("RGB", (6, 4), RED), transparency=RED), (6, 4), WHITE, WHITE),
    "black and white": (encoded(Image.new("1", (6, 4), 1)), (6, 4), WHITE, WHITE),
    "cmyk": (encoded(Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "TIFF"), (6, 4), RED, RED),
    "first frame": (animated(), (6, 4), RED, RED),
    "turned png": (sideways("PNG"), (4, 6), WHITE, RED),
    "turned webp": (sideways("WEBP", lossless=True), (4, 6), WHITE, RED),
    "turned tiff": (sideways("TIFF"), (4, 6), WHITE, RED),
    "upside down png": (sideways("PNG", 3), (6, 4), WHITE, WHITE),
    "turned png, told late": (late_exif(), (4, 6), WHITE, WHITE),
    "16 bit": (grey16(), (3, 1), (0, 0, 0), WHITE),
    "32 bit": (grey16("TIFF", "I"), (3, 1), (0, 0, 0), WHITE),
    "float": (grey16("TIFF", "F"), (3, 1), (0, 0, 0), WHITE),
}


@pytest.mark.parametrize("name", CASES)
def test_size_and_pixels(name):
    content, size, left, right = CASES[name]
    ref = image_ref(content)
    picture = ref.load()
    assert ref.size == picture.size == size
    assert picture.mode == "RGB"
    assert (picture.getpixel((0, 0)), picture.getpixel((size[0] - 1, 0))) == (left, right)


def test_turned_jpeg():
    ref = image_ref(sideways("JPEG", quality=100))
    assert ref.size == ref.load().size == (4, 6)


@pytest.mark.parametrize(("mode", "form"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("F", "TIFF")])
def test_deep_grey_is_scaled_not_clipped(mode, form):
    assert np.asarray(image_ref(grey16(form, mode)).load())[0, :, 0].tolist() == [0, 128, 255]


def test_size_of_a_png_decodes_nothing(monkeypatch):
    content = encoded(Image.new("RGB", (6, 4), RED))

    def refuse(self):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", refuse)
    assert image_ref(content).size == (6, 4)
    with pytest.raises(AssertionError):
        image_ref(content).load()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (encoded(Image.effect_noise((64, 64), 50))[:600], "truncated"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:600], "truncated"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot identify"),
        (b"\x89PNG\r\n\x1a\n", "a.png"),
    ],
    ids=["png cut off", "jpeg cut off", "svg", "png without header"],
)
def test_a_broken_picture_names_its_row(tmp_path, content, says):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=f"^rows.jsonl:3: picture 'a.png' .*{says}.*Replace the file or remove the row$") as error:
        image_ref("a.png", folder=tmp_path, where="rows.jsonl:3").load()
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_any_cut_of_a_file_is_a_data_error():
    for whole in (sideways("PNG"), sideways("JPEG"), sideways("TIFF"), sideways("WEBP"), animated(), clear_palette()):
        for length in range(1, len(whole)):
            ref = image_ref(whole[:length])
            for look in (ref.load, lambda ref=ref: ref.size):
                try:
                    look()
                except DataError:
                    pass


def test_wrong_extension_is_read_by_content(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (6, 4), RED), "JPEG"))
    assert image_ref("a.png", folder=tmp_path).load().size == (6, 4)


def test_a_missing_file_names_row_file_and_remedy(tmp_path):
    with pytest.raises(DataError, match=r"^rows.jsonl:3: picture '.*/b.png' does not exist. Set data.image_folder"):
        image_ref("b.png", folder=tmp_path, where="rows.jsonl:3").load()


PNG = encoded(Image.new("RGB", (6, 4), RED))
TEXT = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "value",
    [PNG, bytearray(PNG), {"bytes": PNG, "path": "x.png"}, TEXT, f"data:image/png;base64,{TEXT}", StoredImage(PNG, lambda: PNG)],
    ids=["bytes", "bytearray", "dict", "base64", "data string", "stored"],
)
def test_embedded_pictures_are_known_by_their_content(value):
    ref = image_ref(value)
    assert ref.key == image_ref(PNG).key and ref.key.startswith("sha256:")
    assert ref.size == ref.load().size == (6, 4)


def test_opened_pictures_are_known_by_their_pixels():
    one, same, other = (image_ref(Image.new("RGB", (6, 4), color)) for color in (RED, RED, WHITE))
    assert one == same and one != other and hash(one) == hash(same)
    assert one.load().size == one.size == (6, 4)
    assert one.load().getpixel((0, 0)) == RED  # twice: the source stays open


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("png/a.png", "png/a.png"),
        ("./png//b/../a.png", "png/a.png"),
        ("../a.png", "../a.png"),
        ({"bytes": None, "path": "a"}, "a"),
    ],
)
def test_paths_are_known_by_their_place_below_the_folder(tmp_path, value, key):
    assert image_ref(value, folder=tmp_path).key == key


def test_an_absolute_path_has_the_key_of_the_relative_one(tmp_path):
    assert image_ref(tmp_path / "png" / "a.png", folder=tmp_path) == image_ref("png/a.png", folder=tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        3,
        True,
        [],
        {},
        {"path": None},
        b"",
        "a\0b.png",
        "\ud800",
        "data:image/png;base64,%%",
        "https://x.org/a.png",
    ],
)
def test_what_is_no_picture_is_refused(value):
    with pytest.raises(DataError, match=r"^row 1: ") as error:
        image_ref(value, where="row 1")
    str(error.value).encode()


def test_a_reference_pickles_with_what_it_has_seen(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    lazy = ImageRef(functools.partial(bytes, PNG), key="lazy")
    for ref in (image_ref("a.png", folder=tmp_path), image_ref(PNG), lazy):
        assert ref.size == (6, 4)
        again = pickle.loads(pickle.dumps(ref))
        assert again == ref and hash(again) == hash(ref) and again.__dict__["size"] == (6, 4)
        assert again.load().size == (6, 4)


def test_stamp_changes_with_the_file(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(PNG)
    ref = image_ref("a.png", folder=tmp_path)
    before = ref.stamp
    file.write_bytes(PNG + b"more")
    assert before != ref.stamp and before.startswith("a.png|")
    assert image_ref(PNG).stamp == image_ref(PNG).key
    file.unlink()
    with pytest.raises(DataError, match="does not exist"):
        ref.stamp  # noqa: B018
