"""The rule of significance and the number table, by hand."""

import numpy as np
import pandas as pd
import pytest

from dtgan_lab.stats import number_table, verdict, with_spread


@pytest.mark.parametrize(
    ("change", "margin", "expected"),
    [
        (-2.0, 1.0, "less"),
        (2.0, 1.0, "more"),
        (1.0, 1.0, "not told apart"),
        (6e-17, 0.0, "not told apart"),  # the last bits of two means
        (2.0, np.nan, "one seed"),
        (np.nan, 1.0, "n/a"),
    ],
)
def test_a_change_counts_beyond_its_margin_alone(change, margin, expected):
    assert verdict(change, margin, "less", "more") == expected


def test_a_number_with_its_spread_and_a_table_in_the_order_of_its_rows():
    assert with_spread(1.26, 0.04) == "1.3 ± 0.0"
    assert with_spread(1.26, 7e-17, ".3g", ".2g") == "1.26 ± 0"
    assert with_spread(1.26) == "1.3" and with_spread(np.nan, 1.0, none="n/a") == "n/a"
    frame = pd.DataFrame({"set": ["b", "b", "a"], "column": ["y", "x", "y"]})
    table = number_table(frame, ["1", "2", "3"], "set", "column")
    assert list(table.index) == ["b", "a"] and list(table.columns) == ["y", "x"]
    assert table.loc["a", "y"] == "3" and table.isna().loc["a", "x"]
