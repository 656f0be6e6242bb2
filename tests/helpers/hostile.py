"""Texts that want to be more than text, in every place where data, models and file names reach a page."""

from __future__ import annotations

from tests.unit.test_page import HOSTILE as PAGE

# A run's files are UTF-8: half a surrogate pair is refused long before.
HOSTILE: list[str] = list(
    dict.fromkeys(
        text.encode("utf-8", "replace").decode()
        for text in [
            *PAGE,
            "../../etc/passwd",
            "images/<b>name</b>.png",
            'a.png" onerror="alert(1)',
            "| a | b |\n| --- | --- |",
            "# heading\n\n* list",
            "[link](javascript:alert(1)) ![x](https://x.example/a.png)",
            "```\nfence\n``` and ~~~",
            "$\\frac{1}{2}$ and $$x$$",
            "<details><summary>x</summary>",
            'data-bucket="fixed" data-item',
            "row\r\nreturn\ttab",
            "\x1b]8;;https://x.example\x07link\x1b]8;;\x07",
            "</text></svg><script>alert(1)</script>",
            'url(#figure_1) id="figure_1"',
        ]
    )
)
