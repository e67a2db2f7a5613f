from __future__ import annotations

from app.policies.ring import MEMBER_BITS, POINTS, RINGS_KEPT, Rings, places

NAMES = tuple(f"http://b{number}" for number in range(40))


def test_places_are_the_same_everywhere() -> None:
    """Derived from name and layer by blake2b alone: pinned for every Python and machine."""
    assert places("http://127.0.0.1:8001", 0)[:3] == [3547245485687, 16695317390701, 7544260042954]
    assert len(set(places("a", 0))) == POINTS
    assert places("a", 0) != places("a", 1)


def test_a_subset_is_served_by_the_same_ring() -> None:
    """A backend that goes unhealthy costs no hashing and no sorting."""
    rings = Rings()
    whole = rings.holding(0, NAMES)
    assert rings.holding(0, NAMES[5:]) is whole


def test_a_new_name_grows_a_copy() -> None:
    """A policy that still uses the old points is not disturbed."""
    rings = Rings()
    old = rings.holding(0, NAMES[:30])
    before = list(old.points)
    grown = rings.holding(0, NAMES[:31])
    assert list(old.points) == before
    assert len(grown.points) == 31 * POINTS
    assert list(grown.points) == sorted(grown.points)


def test_a_ring_of_mostly_others_is_not_used() -> None:
    """Otherwise walks past the absent would get long."""
    rings = Rings()
    rings.holding(0, NAMES)
    assert len(rings.holding(0, NAMES[:10]).numbers) == 10


def test_layers_have_their_own_rings() -> None:
    """The same names in two layers share no points."""
    rings = Rings()
    one, two = rings.holding(0, NAMES), rings.holding(1, NAMES)
    assert not {point >> MEMBER_BITS for point in one.points} & {
        point >> MEMBER_BITS for point in two.points
    }


def test_memory_is_bounded() -> None:
    """Pools that come and go leave no more than the rings kept."""
    rings = Rings()
    for number in range(RINGS_KEPT + 5):
        rings.holding(0, [f"pool {number} backend {at}" for at in range(3)])
    assert len(rings._kept) == RINGS_KEPT


def test_repr_tells_layer_and_members() -> None:
    """For failed assertions."""
    assert repr(Rings().holding(2, NAMES[:3])) == "<Ring layer 2: 3 members>"
