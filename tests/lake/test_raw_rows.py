"""A rejected row is found by the user's column, else by any value; what is not JSON by any part of it."""

import pytest

from mamdr_core.lake.maintenance.raw_rows import plain_column, users_of


@pytest.mark.parametrize(
    ("row", "column", "found"),
    [
        ('{"uid":"u1","item":"u2"}', "uid", ["u1"]),
        ('{"UID":17,"item":1.50}', "uid", ["17"]),
        ('{"uid":null,"item":"u1"}', "uid", []),
        ('{"other":"u1"}', "uid", ["u1"]),
        ('{"uid":"u1","more":[{"id":1.50},17,true]}', None, ["u1", "1.50", "17", "true"]),
        ('{"uid":"u10"}', None, []),
        ('{"uid":"a \\"quoted\\" é"}', "uid", ['a "quoted" é']),
        ("u1;i1;cut of", "uid", ["u1"]),
        ('{"uid":"a \\"quoted\\" \\u00e9","it', "uid", ['a "quoted" é']),
        ("17", "uid", ["17"]),
        ("[" * 100_000, "uid", []),
    ],
)
def test_the_users_of_a_row(row, column, found):
    users = ["u1", "u2", "1.50", "17", "true", 'a "quoted" é']
    assert sorted(users_of(row, column, users)) == sorted(found)


@pytest.mark.parametrize(
    ("expression", "column"),
    [("user", "user"), (" `user id` ", "user id"), ("log.user", None), ("lower(user)", None), ("17", None)],
)
def test_a_plain_column_is_a_name_alone(expression, column):
    assert plain_column(expression) == column
