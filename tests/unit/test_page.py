"""Pages: foreign text stays text, nothing leaves the page, pictures are encoded anew."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import numpy as np
import pytest
from PIL import Image

from mlxtune.images import image_ref
from mlxtune.report import page as page_module
from mlxtune.report import picture, render, thumbnail
from mlxtune.report.samples import samples_page
from mlxtune.survey import Advice, Frequent, ModelFacts, Sample, Share, Skips, Survey
from mlxtune.survey.rows import walk
from mlxtune.text import clean
from mlxtune.types import Example

TEMPLATES = Path(page_module.__file__).parent / "templates"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">')

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<SCRIPT SRC=//x.example/a.js></SCRIPT>",
    "<img src=x onerror=alert(1)>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    '" data-split="test" hidden x="',
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</textarea><b>bold</b>",
    "</article></div></main><h1>mine</h1>",
    "<!-- comment",
    "--><b>x</b>",
    "<![CDATA[ x ]]>",
    "<?php echo 1 ?>",
    "<!DOCTYPE html><html><body onload=alert(1)>",
    "<base href=//x.example/>",
    "<meta http-equiv=refresh content=0;url=//x.example>",
    "<link rel=stylesheet href=//x.example/a.css>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "<form action=//x.example><input name=a></form>",
    "<object data=x></object><embed src=x>",
    "<math><mtext></mtext><script>alert(1)</script></math>",
    "<details open ontoggle=alert(1)>",
    "<template><script>alert(1)</script></template>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;",
    "&quot; &amp; &nbsp; &#x202e;",
    "{{ 7 * 7 }} {% raw %} {# x #}",
    "{{ config.__class__.__mro__ }}",
    "${7*7} #{7*7} <%= 7*7 %>",
    '{"a": "</script>", "b": "\\u003c"}',
    "`${alert(1)}`",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07after",
    "\x9b2Jcleared",
    "a\x00b\x00<b>c</b>",
    "<scr\x00ipt>alert(1)</scr\x00ipt>",
    "\u202egnp.exe\u202c end",
    "\u2066isolated\u2069 \u2067rtl\u2069",
    "half a pair \ud800 here",
    "\x08\x7f\x85 controls",
    "x" * 5000,
    "слово" * 300,
    "كلمة <b>عربية</b>",
    "line\u2028separator\u2029here",
    "\ufeff\ufffe\uffff nothing",
    "expression(alert(1)); } body { display: none",
    "url(//x.example/a.png)",
    "data:text/html,<script>alert(1)</script>",
    "[bold]markup[/bold] [/nope]",
    "= 1 + 1; @import '//x.example'",
]


class Seen(HTMLParser):
    """Elements with the names of their attributes, attribute values, and all text outside of script and style."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.values: list[tuple[str, str, str | None]] = []
        self.pieces: list[str] = []
        self._open = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.elements[tag, tuple(name for name, _ in attrs)] += 1
        self.values += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open not in ("script", "style"):
            self.pieces.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def dots(number: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8))


def a_survey(text: str = "word") -> Survey:
    """`text` stands in every place that data, recipes and messages reach."""
    shown, broken = replace(image_ref(dots(1)), key=f"{text}.png"), replace(image_ref(b"broken"), key=text, where=text)
    example = Example(
        id=text,
        messages=[{"role": text, "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": text}]}],
        question=text,
        target=text,
        references=(text, f"{text} 2"),
        images=(shown, broken),
        choices={text: text, "B": f"{text} 3"},
        names=(text,),
        meta={text: text, "other": 1},
    )
    facts, _ = walk(text, [example, replace(example, id="second", meta={text: "else"})], samples=60, tick=lambda *_: None)
    facts = replace(facts, samples=tuple(Sample(sample.example, where=f"{text}:1") for sample in facts.samples))
    frequent = Frequent((Share(text, 2, 0.5),), 1, 2)
    return Survey(
        name=text,
        task=text,
        data=f"data/{text}",
        splits=(replace(facts, answers=frequent), replace(facts, name="other")),
        origins={text: text, "other": text},
        skipped=(Skips(text, 2, (text, text)),),
        advice=(Advice(text, text),),
        model=ModelFacts(text, note=text, prompt=text),
    )


BENIGN = Seen(samples_page(a_survey()))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_shown_as_text(text: str) -> None:
    html = samples_page(a_survey(text))
    seen = Seen(html)
    assert seen.elements == BENIGN.elements
    safe = clean(text)
    words = " ".join(safe.split())
    assert safe in seen.text  # prompts keep their lines
    assert any(value == safe for tag, name, value in seen.values if (tag, name) == ("option", "value"))
    assert words[:100] in " ".join(seen.text.split())
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)
    html.encode()  # writable


def test_the_benign_page_has_what_the_comparison_needs() -> None:
    assert BENIGN.elements["script", ()] == 1
    assert BENIGN.elements["article", ("class", "data-item", "data-split", "data-meta0")] == 4
    assert sum(count for (tag, _), count in BENIGN.elements.items() if tag == "img") == 8
    titles = [value for tag, name, value in BENIGN.values if tag == "span" and name == "title"]
    assert len(titles) == 4 and all("cannot be read" in title for title in titles)


def test_nothing_leaves_the_page_and_no_script_comes_from_data() -> None:
    html = samples_page(a_survey("</script><script>alert(1)</script>"))
    policy = POLICY.search(html)
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].replace("&#39;", "'").split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", rules["script-src"])
    assert html.count("<script>") == 1 and (TEMPLATES / "filter.js").read_text(encoding="utf-8") in html
    for tag, name, value in Seen(html).values:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "action", "data"):
            assert value and value.startswith(("data:image/", "#")), (tag, name, value)


def test_a_page_without_a_script_allows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "script-src &#39;none&#39;" in render("base.html.j2") or "script-src 'none'" in render("base.html.j2")


@pytest.mark.parametrize("file", sorted(TEMPLATES.glob("*.j2")), ids=lambda file: file.name)
def test_templates_cannot_let_text_through(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe\b|autoescape|Markup", source)
    assert not re.search(r"=\s*\{\{|='[^']*\{\{", source), "an attribute with a value of data needs double quotes"
    assert not re.search(r'\b(href|on\w+|style)="[^"]*\{\{', source), "data belongs into no such attribute"
    for block in re.findall(r"<script>(.*?)</script>|<style>(.*?)</style>", source, re.DOTALL):
        assert re.fullmatch(r"\s*\{\{ asset\([\w\".]+\) \}\}\s*", "".join(block))


def test_a_value_that_is_missing_is_an_error_and_none_a_dash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = page_module._environment().overlay(loader=jinja2.DictLoader({"t": "{{ a }} {{ b }} {{ c }}"}))
    monkeypatch.setattr(page_module, "_environment", lambda: environment)
    assert render("t", a=None, b=0, c="<\x1b[1m>") == "— 0 &lt;&gt;"
    with pytest.raises(jinja2.UndefinedError, match="'c' is undefined"):
        render("t", a=1, b=2)


def opened(uri: str) -> tuple[Image.Image, str, bytes]:
    head, _, body = uri.partition(";base64,")
    content = base64.b64decode(body)
    return Image.open(io.BytesIO(content)), head.removeprefix("data:image/"), content


def smooth(side: int = 900) -> Image.Image:
    return dots(3, (9, 6)).resize((side, side * 2 // 3), Image.Resampling.BICUBIC)


def chart() -> Image.Image:
    image = Image.new("RGB", (300, 200), "white")
    image.paste("navy", (30, 60, 90, 200))
    return image


@pytest.mark.parametrize(
    ("image", "side", "kind", "size"),
    [
        (smooth(), 320, "jpeg", (320, 213)),
        (chart(), 320, "png", (300, 200)),
        (chart(), 100, "png", (100, 67)),
        (Image.new("RGB", (2000, 1)), 320, "png", (320, 1)),
        (Image.new("RGBA", (50, 50), (0, 0, 0, 0)), 320, "png", (50, 50)),
    ],
    ids=("photo", "chart", "small chart", "line", "transparent"),
)
def test_thumbnail(image: Image.Image, side: int, kind: str, size: tuple[int, int]) -> None:
    made = picture(image_ref(image), side=side)
    shown, told, _ = opened(made.uri)
    assert (told, shown.size, (made.width, made.height), made.problem) == (kind, size, size, None)
    assert thumbnail(image_ref(image), side=side) == made.uri
    if image.mode == "RGBA":
        assert shown.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_thumbnail_leaves_out_what_the_file_brought_along(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "secret place", 6  # description, turned by 90 degrees
    smooth().save(tmp_path / "a.jpg", exif=exif, comment=b"secret word", icc_profile=b"secret colour")
    shown, _, content = opened(thumbnail(image_ref(tmp_path / "a.jpg")))
    assert shown.size == (213, 320)
    assert b"secret" not in content and b"Exif" not in content and b"ICC_PROFILE" not in content


@pytest.mark.parametrize("content", [b"no picture", b"\x89PNG\r\n\x1a\nbroken"])
def test_a_picture_that_cannot_be_read_gives_a_drawing_and_the_reason(content: bytes) -> None:
    made = picture(image_ref(content, where="rows.jsonl:3"))
    assert made.uri.startswith("data:image/svg+xml;base64,")
    assert made.problem and made.problem.startswith("rows.jsonl:3: picture") and "cannot be read" in made.problem


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_in_a_browser(tmp_path: Path) -> None:
    """Hostile text runs nothing, the policy lets the page's own script through, search and filters work."""
    survey = a_survey("<img src=x onerror=document.title='bad'></script><script>document.title='bad'</script>")
    html = samples_page(survey)
    dom, log = browse(tmp_path / "page.html", html)
    assert not re.search(r"CONSOLE", log), log
    assert "<title>&lt;img src=x" in dom
    assert re.search(r'data-finder="">', dom), "the script did not run"
    # The harness needs a page without a policy: our own would not let it run.
    steps = """
      const find = document.querySelector("[data-search]"), split = document.querySelector("select");
      const count = () => document.querySelectorAll("[data-item]:not([hidden])").length;
      const enter = (field, value) => { field.value = value; field.dispatchEvent(new Event("input", {bubbles: true})); };
      const told = [count()];
      enter(find, "  SECOND "); told.push(count());
      enter(split, "other"); told.push(count());
      enter(find, "no such word"); told.push(count());
      enter(find, ""); told.push(count(), document.querySelector("[data-shown]").textContent);
      document.title = told.join(" ");
    """
    dom, _ = browse(tmp_path / "steps.html", POLICY.sub("", html).replace("</body>", f"<script>{steps}</script></body>"))
    assert "<title>4 2 1 0 2 2</title>" in dom


def browse(file: Path, html: str) -> tuple[str, str]:
    file.write_text(html, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={file.parent}/profile"]
    done = subprocess.run(
        [str(CHROMIUM), *options, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, done.stderr
