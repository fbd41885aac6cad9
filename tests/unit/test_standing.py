"""How a worker's tags tell whether it takes tasks."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.worker.standing import Stand, Standing, stand_in

TOLD = [standing for standing in Standing if standing is not Standing.OPEN]
LINES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1)


@pytest.mark.parametrize(
    ("stand", "tag"),
    [
        (Stand(standing=Standing.DRAINING), "draining"),
        (Stand(standing=Standing.CLOSED, until="2026-01-05T08:00+01:00"), "closed until 2026-01-05T08:00+01:00"),
        (Stand(standing=Standing.FORCED_ON), "forced on"),
        (
            Stand(standing=Standing.FORCED_OFF, until="2026-01-05T08:00+01:00"),
            "forced off until 2026-01-05T08:00+01:00",
        ),
        (Stand(standing=Standing.WAITING, why="GPU 0: full"), "waiting: GPU 0: full"),
    ],
)
def test_tags_are_words_that_people_read(stand: Stand, tag: str) -> None:
    assert stand.tag == tag
    assert stand_in([tag]) == stand


@given(st.sampled_from(TOLD), LINES)
def test_a_reason_comes_back_as_it_was(standing: Standing, why: str) -> None:
    stand = Stand(standing=standing, why=why)
    assert stand_in(["before", stand.tag, "after"]) == Stand(standing=standing, why=" ".join(why.split()))


@pytest.mark.parametrize("standing", TOLD)
@pytest.mark.parametrize("until", ["", "2026-01-05T08:00+01:00"])
def test_an_end_comes_back_as_it_was(standing: Standing, until: str) -> None:
    stand = Stand(standing=standing, until=until)
    assert stand_in([stand.tag]) == stand


def test_open_has_no_tag_and_no_tag_is_open() -> None:
    assert Stand().tag == ""
    assert stand_in([]) == Stand()


@pytest.mark.parametrize(
    "tag",
    ["", "open", "closed-source", "closed until", "closed until then and longer", "waiting:", "my draining", "Closed"],
)
def test_tags_of_other_meaning_are_not_taken_for_a_standing(tag: str) -> None:
    assert stand_in([tag]) == Stand()


@pytest.mark.parametrize(("lesser", "graver"), list(combinations(TOLD, 2)))
def test_of_several_the_gravest_counts_in_whatever_order(lesser: Standing, graver: Standing) -> None:
    tags = [Stand(standing=standing).tag for standing in (lesser, graver)]
    assert stand_in(tags) == stand_in(tags[::-1]) == Stand(standing=graver)
