from __future__ import annotations

import pytest

from dfkd_bench.planning.toml_lines import TomlError, read

TEXT = '''# a comment with [brackets] and = signs
seeds = [0, 1,
  2,  # two, ] not the end
  3]
"a.b"."c \\" d" = 1
text = """
[not.a.table]
steps = 1 \\"""
"""
raw = \'\'\'x = "
[y]\'\'\'
point = { x = 1, y = { z = [
  "], }", 2] }, "steps" = 3 }
a.b.c = 1_000

[[method]]
name = "one"  # [[method]]
[method.synthesizer]
steps = 1
[[method.part]]
k = 1
[[method.part]]
k = 2

[[method]]
name = 'two'
synthesizer.steps = 2
synthesizer.lr = inf
[method.schedule]
steps = 3
[ "other table" . x ]
steps = 1979-05-27 07:32:00
'''


def every_path(value, path=()):
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from every_path(below, (*path, key))


def test_each_key_and_element_has_its_own_line():
    content, lines = read(TEXT)
    assert set(every_path(content)) == set(lines)
    found = TEXT.splitlines()
    expected = {
        ("seeds",): 2, ("seeds", 0): 2, ("seeds", 1): 2, ("seeds", 2): 3, ("seeds", 3): 4,
        ("a.b", 'c " d'): 5, ("text",): 6, ("raw",): 10, ("point", "x"): 12, ("point", "y", "z"): 12,
        ("point", "y", "z", 0): 13, ("point", "y", "z", 1): 13, ("point", "steps"): 13, ("a", "b", "c"): 14,
        ("method",): 16, ("method", 0): 16, ("method", 0, "name"): 17, ("method", 0, "synthesizer", "steps"): 19,
        ("method", 0, "part", 0, "k"): 21, ("method", 0, "part", 1, "k"): 23, ("method", 1): 25,
        ("method", 1, "name"): 26, ("method", 1, "synthesizer", "steps"): 27, ("method", 1, "synthesizer", "lr"): 28,
        ("method", 1, "schedule"): 29, ("method", 1, "schedule", "steps"): 30, ("other table", "x", "steps"): 32,
    }  # fmt: skip
    assert {path: lines[path] for path in expected} == expected
    for path in (("method", 1, "schedule", "steps"), ("point", "steps"), ("seeds", 2)):
        assert str(path[-1]) in found[lines[path] - 1]


def test_line_ends_of_windows_count_once():
    assert read(TEXT.replace("\n", "\r\n"))[1] == read(TEXT)[1]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\nb = \n", 2),
        ("a = 1\na = 2", 2),
        ("a = 1\n\n[b\n", 3),
        ("a = [1,\n2", 2),
        ("", None),
        ("# nothing", None),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(text, line):
    if line is None:
        assert read(text) == ({}, {})
        return
    with pytest.raises(TomlError) as caught:
        read(text)
    assert caught.value.line == line
    assert "(at" not in str(caught.value)
