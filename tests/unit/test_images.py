"""Pictures of every kind that data sets hold: their size without decoding, and their pixels upright on white."""

import base64
import functools
import hashlib
import io
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from mlxtune.data.pictures import open_pictures
from mlxtune.data.sources import open_source
from mlxtune.errors import RowError
from mlxtune.images import ImageRef, StoredImage, image_ref
from mlxtune.recipe.spec import RowsSpec

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


def animated(form: str = "GIF", **options) -> bytes:
    frames = [Image.new("RGB", (6, 4), color) for color in (RED, (0, 0, 255))]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)


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
    "blank": (encoded(Image.new("RGB", (1, 1), WHITE)), (1, 1), WHITE, WHITE),
    "blank and clear": (encoded(Image.new("RGBA", (6, 4), (0, 0, 0, 0))), (6, 4), WHITE, WHITE),
    "palette": (encoded(Image.new("RGB", (6, 4), RED).quantize(4)), (6, 4), RED, RED),
    "cmyk jpeg": (encoded(Image.new("CMYK", (6, 4), (0, 0, 0, 0)), "JPEG"), (6, 4), WHITE, WHITE),
    "animated webp": (animated("WEBP", lossless=True), (6, 4), RED, RED),
    "animated png": (animated("PNG"), (6, 4), RED, RED),
}


def held(folder, content: bytes, place: str) -> ImageRef:
    """A reference as the rows of a data set give it; the file's name says png, whatever it is."""
    if place == "bytes":
        return image_ref(content)
    spec = RowsSpec(path=str(folder / "train.parquet" if place == "parquet" else folder / "pictures"))
    if place == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"image": [content]}), folder / "train.parquet")
    elif place == "file":
        (folder / "pictures").mkdir()
        (folder / "pictures" / "a.png").write_bytes(content)
    else:
        spec = RowsSpec(path=str(folder / "pictures.zip"))
        with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
            archive.writestr("a.png", content)
    source = open_source(spec)
    (row,) = next(iter(source.tables.values()))()
    return open_pictures(spec, source=source)(row.values["image"], where="row")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("place", ["bytes", "file", "zip", "parquet"])
def test_size_and_pixels(tmp_path, name, place):
    content, size, left, right = CASES[name]
    ref = held(tmp_path, content, place)
    ref.check()
    picture = ref.load()
    assert ref.size == picture.size == size
    assert picture.mode == "RGB"
    assert (picture.getpixel((0, 0)), picture.getpixel((size[0] - 1, 0))) == (left, right)
    assert f"sha256:{ref.digest()}" == image_ref(content).key
    assert pickle.loads(pickle.dumps(ref)).load().tobytes() == picture.tobytes()


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


NOISE = Image.effect_noise((64, 64), 50)
_NO_PICTURE = "no picture, or of a form such as HEIC that must be converted to JPEG first"
BROKEN = {
    "png cut off": (encoded(NOISE)[:600], "truncated"),
    "jpeg cut off": (encoded(NOISE, "JPEG")[:600], "truncated"),
    "gif cut off": (encoded(NOISE.convert("P"), "GIF")[:600], "truncated|cannot"),
    "webp cut off": (encoded(NOISE, "WEBP")[:600], "cannot"),
    "tiff cut off": (encoded(NOISE, "TIFF")[:-600], "cannot"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", _NO_PICTURE),
    "a web page": (b"<html>404</html>", _NO_PICTURE),
    "png without header": (b"\x89PNG\r\n\x1a\n", _NO_PICTURE),
    "from a phone": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(400), _NO_PICTURE),
    "nothing": (b"", _NO_PICTURE),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("look", ["load", "check"])
def test_a_broken_picture_names_its_row(tmp_path, name, look):
    content, says = BROKEN[name]
    (tmp_path / "a.png").write_bytes(content)
    ref = image_ref("a.png", folder=tmp_path, where="rows.jsonl:3")
    with pytest.raises(
        RowError, match=rf"^rows.jsonl:3: picture 'a.png' .*({says}).*Replace the file or remove the row$"
    ) as error:
        getattr(ref, look)()
    assert "\n" not in str(error.value) and error.value.reason == "picture unreadable"


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "nothing"])
@pytest.mark.parametrize("place", ["bytes", "zip", "parquet"])
def test_a_broken_picture_is_told_wherever_it_is(tmp_path, name, place):
    ref = held(tmp_path, BROKEN[name][0], place)
    for again in (ref, pickle.loads(pickle.dumps(ref)), ref.at("another row")):
        with pytest.raises(RowError, match=f"^{again.where + ': ' if again.where else ''}picture '.*' cannot be read") as error:
            again.check()
        assert error.value.reason == "picture unreadable" and " at 0x" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_any_cut_of_a_file_is_a_row_error_and_known_to_the_check():
    for whole in (sideways("PNG"), sideways("JPEG"), sideways("TIFF"), sideways("WEBP"), animated(), clear_palette()):
        for length in range(1, len(whole)):
            ref, loads = image_ref(whole[:length]), True
            for look in (ref.load, lambda ref=ref: ref.size):
                try:
                    look()
                except RowError:
                    loads = False
            try:
                image_ref(whole[:length]).check()
                assert loads
            except RowError:
                assert not loads


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
def test_the_check_decodes_nothing_where_the_end_is_right(monkeypatch, form):
    ref = image_ref(encoded(Image.new("RGB", (6, 4), RED), form))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile.load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", lambda self: pytest.fail("decoded"))
    assert ref.check() is None and ref.size == (6, 4)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
def test_what_stands_behind_a_picture_does_no_harm(form):
    ref = image_ref(encoded(Image.new("RGB", (6, 4), RED), form) + b"\n<!-- more -->")
    assert ref.check() is None and ref.load().size == (6, 4)


def test_a_stored_picture_is_seen_while_its_bytes_are_in_hand():
    def read():
        raise AssertionError("read again")

    ref = image_ref(StoredImage(PNG, read), where="r")
    assert ref.source is read and ref.size == (6, 4) and ref.check() is None and len(ref.digest()) == 32
    assert image_ref(StoredImage(PNG, None)).source == PNG
    broken = image_ref(StoredImage(PNG[:45], read), where="r")
    with pytest.raises(RowError, match="^r: .*cannot be read"):
        broken.check()


def test_a_check_reads_a_file_once(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(PNG)
    ref = image_ref("a.png", folder=tmp_path)
    ref.check()
    (tmp_path / "a.png").unlink()
    assert ref.check() is None and ref.size == (6, 4)


def test_digests_are_those_of_the_files_bytes(tmp_path):
    for name, content in (("a.png", PNG), ("b.gif", PNG), ("c.png", PNG + b" ")):
        (tmp_path / name).write_bytes(content)
    one, same, other = (image_ref(name, folder=tmp_path).digest() for name in ("a.png", "b.gif", "c.png"))
    assert one == same == hashlib.sha256(PNG).hexdigest()[:32] != other
    assert one == ImageRef(functools.partial(bytes, PNG), key="lazy").digest() == image_ref(PNG).digest()
    picture = Image.new("RGB", (6, 4), RED)
    assert image_ref(picture).digest() == image_ref(picture.copy()).digest()
    with pytest.raises(RowError, match="does not exist"):
        image_ref("sha256:0", folder=tmp_path).digest()


def test_wrong_extension_is_read_by_content(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (6, 4), RED), "JPEG"))
    assert image_ref("a.png", folder=tmp_path).load().size == (6, 4)


def test_a_missing_file_names_row_file_and_remedy(tmp_path):
    for look in (ImageRef.load, ImageRef.check):
        with pytest.raises(RowError, match=r"^rows.jsonl:3: picture '.*/b.png' does not exist. Set data.image_folder") as error:
            look(image_ref("b.png", folder=tmp_path, where="rows.jsonl:3"))
        assert error.value.reason == "picture missing"


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


@pytest.mark.parametrize("form", ["BMP", "TIFF", "AVIF"])
def test_base64_text_of_any_form_is_told_from_a_path_by_its_length(form):
    text = base64.b64encode(encoded(NOISE.resize((120, 90)), form)).decode()
    assert image_ref(text).load().size == (120, 90)
    with pytest.raises(RowError, match="base64 text is broken") as error:
        image_ref("%" + text, where="rows.jsonl:3")
    assert len(str(error.value)) < 200 and error.value.reason == "picture unreadable"


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
    with pytest.raises(RowError, match=r"^row 1: ") as error:
        image_ref(value, where="row 1")
    str(error.value).encode()
    assert error.value.reason in ("field wrong", "picture unreadable", "picture missing")


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
    assert before != ref.stamp and before.startswith(f"{tmp_path}/a.png|")
    assert image_ref(PNG).stamp == image_ref(PNG).key
    file.unlink()
    with pytest.raises(RowError, match="does not exist"):
        ref.stamp  # noqa: B018
