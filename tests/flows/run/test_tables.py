from flows.run.tables import Table


def test_table_formats_numbers_and_aligns_columns() -> None:
    table = Table(["name", "value"], [("a", 1 / 3), ("bc", -0.0)])
    assert table.as_text().splitlines() == ["name     value", "a     0.333333", "bc           0"]
    assert table.as_markdown() == "| name | value |\n| --- | ---: |\n| a | 0.333333 |\n| bc | 0 |"


def test_table_aligns_a_named_column_of_strings_right() -> None:
    table = Table(["|x|", "share"], [("a", "5%"), ("b", "12%")], right={"share"})
    assert table.as_text().splitlines() == ["|x|  share", "a       5%", "b      12%"]
    assert table.as_markdown().splitlines()[:2] == [r"| \|x\| | share |", "| --- | ---: |"]
