"""What a chapter asks of its reader: counted as the rule says, and binding for the second edition alone."""

from dataclasses import replace

import pytest
from books import finished_run

from nbpkg import chapters
from nbpkg.book import budget, publish

TEXT = """
# %% [markdown]
# Four words of prose. <!-- relies: a=reproduced, which nobody reads -->
# <details><summary>Answer</summary>
#
# Folded away.
#
# </details>
#
# | To read | 0 minutes |

# %% tags=["hide-input"]
def folded(a, b, c, d, e, f, g, h):
    return "PADDING"
"""
NUMBERS = {"output_type": "stream", "name": "stdout", "text": "0.5 of 12.25, and 7\n"}


def measured():
    return budget.measure(chapters.get("help"))


def test_the_reader_is_asked_what_is_shown(book):
    before = measured()
    book.write(middle=TEXT.replace("PADDING", "x" * 100))
    after = measured()
    assert after["words"] - before["words"] == 4 + 3
    assert after["lines shown"] == before["lines shown"] and after["lines"] == before["lines"] + 2
    assert (after["parameters"], after["columns"]) == (8, 113)
    assert after["names"] == before["names"] + 1


def test_printed_decimals_and_minutes_are_of_the_published_notebook(book):
    finished_run(book, outputs={2: [NUMBERS]})
    publish.publish(["help"])
    found = measured()
    assert found["decimals"] == 2 and found["claims"] == 2 and found["CPU minutes"] == 1
    whole = found["words"] / 200 + found["lines shown"] / 25 + found["decimals"] / 60
    assert found["minutes"] == round(whole)


@pytest.mark.parametrize("edition", [1, 2])
def test_too_much_is_a_problem_of_the_second_edition(book, edition):
    book.write(middle=TEXT.replace("PADDING", "x" * 100))
    line, over = budget.report(replace(chapters.get("help"), edition=edition))
    assert "columns 113!, " in line and "parameters 8!" in line and "words " in line
    wrong = [one for one in over if "the card does not say" not in one]
    said = ["budget: columns 113, more than 95", "budget: parameters 8, more than 7"]
    assert wrong == (said if edition == 2 else [])
