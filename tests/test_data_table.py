"""CSV files of paths: labels, pair ids, parts, given pairs and triplets, and every way in which they are wrong."""

from __future__ import annotations

import os

import numpy as np
import pytest

from keras_contrastive import data
from keras_contrastive.data.table import read_table
from tests.test_data_files import numbered_files
from tests.test_data_folder import picture, save

LETTERS = "abcdefghij"


def pictures(folder, names=LETTERS):
    """Files `a.png`, ...: number k shows picture k."""
    for k, name in enumerate(names):
        save(folder / f"{name}.png", picture(16, 16, seed=k))


def table(folder, text, name="t.csv"):
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def lines(*rows):
    return "".join(f"{row}\n" for row in rows)


def names_of(paths):
    return [os.path.relpath(path, os.path.dirname(paths[0])) for path in paths]


def load(file, **options):
    return data.load(f"csv:{file}", **{"image_size": 16, **options})


def shown(images):
    """Which pictures these are."""
    known = {np.asarray(picture(16, 16, seed=k)).tobytes(): k for k in range(10)}
    return [known[image.tobytes()] for image in images]


def test_load_of_labelled_paths_gives_classes_in_the_order_of_words(tmp_path):
    pictures(tmp_path)
    words = ["dog", "cat", "", "dog", "cat"] * 2
    file = table(
        tmp_path, lines("path,label", *map("{}.png,{}".format, LETTERS, words))
    )
    source = load(file)
    assert (source.name, source.skipped) == ("t", [])
    assert (len(source.train), len(source.test)) == (8, 2)
    expected = [{"cat": 0, "dog": 1, "": -1}[word] for word in words]
    for part in (source.train, source.test):
        assert part.class_names == ["cat", "dog"]
        assert part.labels.tolist() == [expected[k] for k in shown(part.images)]


@pytest.mark.parametrize("path", ["path", "file", "filename", "image", "Path "])
@pytest.mark.parametrize("label", ["label", "class"])
def test_table_takes_integers_as_they_are_under_every_name(tmp_path, path, label):
    pictures(tmp_path, "abc")
    text = lines(f"note,{label},{path}", "x,7,a.png", 'x,"",b.png', "x, 0 , c.png ")
    found = read_table(table(tmp_path, text), [])
    assert (found.labels, found.class_names) == ([7, -1, 0], None)
    assert names_of(found.paths) == ["a.png", "b.png", "c.png"]
    assert (found.rows, found.in_test, found.grouped) == (None, None, False)


def test_table_with_one_word_takes_integers_as_words(tmp_path):
    pictures(tmp_path, "abc")
    text = lines("path,label", "a.png,10", "b.png,9", "c.png,x")
    found = read_table(table(tmp_path, text), [])
    assert (found.labels, found.class_names) == ([0, 1, 2], ["10", "9", "x"])


def test_table_without_labels_or_header_is_a_list_of_files(tmp_path):
    pictures(tmp_path, "abc")
    found = read_table(table(tmp_path, "a.png\n\nc.png\n"), [])
    assert names_of(found.paths) == ["a.png", "c.png"]
    assert found.labels is None


def test_table_without_header_has_labels_in_its_second_column(tmp_path):
    pictures(tmp_path, "abc")
    found = read_table(table(tmp_path, "a.png,1\nb.png,0\n"), [])
    assert (names_of(found.paths), found.labels) == (["a.png", "b.png"], [1, 0])


@pytest.mark.parametrize("name", ["t.tsv", "T.TSV"])
def test_table_of_tabs_may_have_commas_in_names(tmp_path, name):
    pictures(tmp_path, ["a,b", "c"])
    text = "path\tlabel\na,b.png\t1\nc.png\t2\n"
    found = read_table(table(tmp_path, text, name), [])
    assert (names_of(found.paths), found.labels) == (["a,b.png", "c.png"], [1, 2])


def test_table_with_byte_order_mark_quotes_and_names_of_all_scripts(tmp_path):
    names = ['comma, "quoted"', "naïve", "猫", "путь"]
    pictures(tmp_path, names)
    rows = ['"comma, ""quoted"".png",ü', "naïve.png,ü", "猫.png,犬", "путь.png,犬"]
    text = "\ufeff" + "\r\n".join(["path,label", *rows])
    found = read_table(table(tmp_path, text), [])
    assert names_of(found.paths) == [f"{name}.png" for name in names]
    assert (found.labels, found.class_names) == ([0, 0, 1, 1], ["ü", "犬"])
    source = load(tmp_path / "t.csv")
    together = [*shown(source.train.images), *shown(source.test.images)]
    assert sorted(together) == [0, 1, 2, 3]


def test_table_paths_are_relative_to_it_or_absolute(tmp_path, monkeypatch):
    pictures(tmp_path / "sub")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "lists").mkdir()
    text = lines("path", "../sub/a.png", tmp_path / "sub" / "b.png", "~/sub/c.png")
    found = read_table(table(tmp_path / "lists", text), [])
    resolved = [os.path.realpath(path) for path in found.paths]
    assert resolved == [str(tmp_path / "sub" / f"{k}.png") for k in "abc"]


def test_load_of_pair_ids_keeps_the_examples_of_one_together(tmp_path):
    pictures(tmp_path)
    ids = ["one", "two", "one", "", "three", "two", "four", "three", "four", "five"]
    rows = map("{}.png,{}".format, LETTERS, ids)
    file = table(tmp_path, lines("path,pair_id", *rows))
    for seed in range(6):
        source = load(file, seed=seed)
        found = [{ids[k] for k in shown(p.images)} for p in (source.train, source.test)]
        assert found[0] & found[1] == set()
        assert found[0] | found[1] == set(ids)
        for part in (source.train, source.test):
            numbers = [ids[k] for k in shown(part.images)]
            same = np.equal.outer(numbers, numbers)
            np.testing.assert_array_equal(np.equal.outer(*[part.labels] * 2), same)
    assert source.train.class_names is None


def test_load_of_a_split_column_takes_it(tmp_path):
    pictures(tmp_path)
    split = ["train", "test"] * 5
    rows = map("{}.png,{},{}".format, LETTERS, split, range(10))
    source = load(table(tmp_path, lines("path,split,label", *rows)))
    assert shown(source.train.images) == source.train.labels.tolist() == [0, 2, 4, 6, 8]
    assert shown(source.test.images) == source.test.labels.tolist() == [1, 3, 5, 7, 9]


def test_load_of_a_split_column_without_test_holds_a_fifth_out(tmp_path):
    pictures(tmp_path)
    rows = [f"{k}.png,train" for k in LETTERS]
    source = load(table(tmp_path, lines("path,split", *rows)))
    assert (len(source.train), len(source.test)) == (8, 2)


@pytest.mark.parametrize("header", [["anchor,positive"], []], ids=["header", "none"])
def test_load_of_two_columns_gives_the_pairs(tmp_path, header):
    pictures(tmp_path)
    pairs = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    rows = [f"{LETTERS[a]}.png,{LETTERS[b]}.png" for a, b in pairs]
    for cache in ("memory", "none"):
        source = load(table(tmp_path, lines(*header, *rows)), cache=cache)
        assert (len(source.train), len(source.test)) == (4, 1)
        images = np.concatenate([source.train.images, source.test.images])
        assert sorted(tuple(shown(views)) for views in images) == pairs


def test_load_of_three_columns_gives_the_triplets_of_its_parts(tmp_path):
    pictures(tmp_path)
    rows = [
        "a.png,b.png,c.png,train",
        "b.png,a.png,d.png,test",
        "e.png,f.png,a.png,train",
    ]
    file = table(tmp_path, lines("a,p,n,split", *rows))
    source = load(file)
    assert [shown(views) for views in source.train.images] == [[0, 1, 2], [4, 5, 0]]
    assert [shown(views) for views in source.test.images] == [[1, 0, 3]]


def test_load_lists_missing_files_and_pipes_and_leaves_them_out(tmp_path):
    pictures(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    missing = ["gone.png", "pipe.png", "folder.png"]
    rows = [
        f"{name},{k % 2}"
        for k, name in enumerate([*missing, *map("{}.png".format, LETTERS)])
    ]
    file = table(tmp_path, lines("path,label", *rows))
    with pytest.warns(UserWarning, match="3 files could not be read"):
        source = load(file)
    reasons = ["no such file", "not a regular file", "not a regular file"]
    assert source.skipped == [
        f"{tmp_path / name}: {reason}" for name, reason in zip(missing, reasons)
    ]
    for part in (source.train, source.test):  # three lines on: the others' parity
        assert part.labels.tolist() == [(k + 1) % 2 for k in shown(part.images)]


def test_load_of_pairs_with_a_missing_file_leaves_the_pair_out(tmp_path):
    pictures(tmp_path)
    rows = [
        "gone.png,b.png,train",
        "a.png,b.png,train",
        "c.png,gone.png,test",
        "c.png,d.png,test",
    ]
    file = table(tmp_path, lines("left,right,split", *rows))
    with pytest.warns(UserWarning, match="1 files could not be read"):
        source = load(file)
    assert source.skipped == [f"{tmp_path / 'gone.png'}: no such file"]
    assert [shown(views) for views in source.train.images] == [[0, 1]]
    assert [shown(views) for views in source.test.images] == [[2, 3]]


@pytest.mark.parametrize(
    "first", ["gone.png,a.png", "a.png,gone.png"], ids=["first", "second"]
)
def test_pairs_without_header_whose_first_line_misses_a_file_lose_it_alone(
    tmp_path, first
):
    pictures(tmp_path)
    skipped = []
    found = read_table(
        table(tmp_path, lines(first, "b.png,c.png", "d.png,e.png")), skipped
    )
    assert skipped == [f"{tmp_path / 'gone.png'}: no such file"]
    pairs = [[os.path.basename(found.paths[k]) for k in row] for row in found.rows]
    assert pairs == [["b.png", "c.png"], ["d.png", "e.png"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n \n,\n", "is empty"),
        ("path,label\n", "has a header and no lines"),
        ("path,label\na.png,1\nb.png\n", "line 3: 2 columns are needed. Found 1"),
        ("path\n\na.png,1\n", "line 3: 1 columns are needed. Found 2"),
        ('path,label\n"a.png,1\n', "cannot be read as CSV: .+"),
        ("w,x,y,z\na.png,b.png,c.png,d.png\n", "must have a column `path`.*w, x, y, z"),
        ("path,split\na.png,train\nb.png,dev\n", "line 3: `split` must be .*'dev'"),
        ("l,r,split\na.png,b.png,\n", "line 2: `split` must be .*''"),
        ("path,split\na.png,test\nb.png,test\n", "no line .*'train'"),
        ("path,split\na.png,test\ngone.png,train\n", "no line .*'train'"),
        ("path\ngone.png\n", "none of the files that it names is there"),
        ("l,r\na.png,gone.png\n", "none of the pairs or triplets .* is there as a whole"),
        ("path\na\xe9.png\n".encode("latin-1"), "cannot be read as CSV: .*utf-8"),
        ("path\na.png\n".encode("utf-16"), "cannot be read as CSV: .*utf-8"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "bytes",
)  # fmt: skip
def test_load_of_a_wrong_table_is_refused_in_one_line(tmp_path, text, message):
    pictures(tmp_path, "abcd")
    with pytest.raises(ValueError, match=message) as caught:
        load(table(tmp_path, text))
    assert str(caught.value).startswith(f"'{tmp_path / 't.csv'}'")
    assert "\n" not in str(caught.value)


def test_load_of_a_table_that_is_not_there_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("gone.csv", "pipe.csv"):
        with pytest.raises(ValueError, match=f"There is no file '{tmp_path / name}'"):
            load(tmp_path / name)


def test_pairs_that_share_a_file_are_not_parted_by_the_split(tmp_path):
    numbered_files(tmp_path, 24)
    names = [f"{k:03d}.png" for k in range(24)]
    # Four chains of six files: of each, all pairs are in one part.
    chains = [names[at : at + 6] for at in range(0, 24, 6)]
    lines = [f"{a},{b}" for chain in chains for a, b in zip(chain, chain[1:])]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    source = data.load(f"csv:{tmp_path / 'pairs.csv'}", image_size=16, cache="none")
    assert (len(source.train), len(source.test)) == (15, 5)
    parts = [
        {part.examples.name_of(row) for row in range(len(part.examples))}
        for part in (source.train, source.test)
    ]
    assert not parts[0] & parts[1]
