from __future__ import annotations

import pytest

from billing_service.domain.toml_lines import MAX_STATEMENT_LINES, Lines

TEXT = '''\
top = 1 # a = 2

[a.b]
text = """
[not.a.header]
key = 1
"""
after = [
  { x = 1 },
  { x = 2 },
]

[[a.list]]
x = 1
[[a.list]]
y = { z = 2 }
[a.list.sub]
w = 3
[[a.list.deep]]
v = 4
["quoted key"]
"#1" = 5
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 1),
        (("a", "b"), 3),
        (("a", "b", "text"), 4),
        (("a", "b", "after"), 8),
        (("a", "b", "after", 1, "x"), 8),
        (("a", "list", 0, "x"), 14),
        (("a", "list", 1), 15),
        (("a", "list", 1, "y", "z"), 16),
        (("a", "list", 1, "sub", "w"), 18),
        (("a", "list", 1, "deep", 0, "v"), 20),
        (("quoted key", "#1"), 22),
        (("a", "b", "missing"), 3),
        (("missing",), None),
        ((), None),
    ],
)
def test_knows_the_line_of_every_path(path: tuple[str | int, ...], line: int | None) -> None:
    """A path has the line its statement begins on; one that is missing has the line of the table around it."""
    assert Lines(TEXT).line_of(path) == line


def test_says_nothing_where_it_would_have_to_guess() -> None:
    """Past a statement that is too long to judge, no line is given rather than a wrong one."""
    text = "before = 1\nlong = [\n" + "1,\n" * MAX_STATEMENT_LINES + "]\nafter = 2\n"
    lines = Lines(text)
    assert lines.line_of(("before",)) == 1
    assert lines.line_of(("long",)) is None
    assert lines.line_of(("after",)) is None
