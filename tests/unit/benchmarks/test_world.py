import numpy as np
import pytest

from benchmarks.world import GROUPS, SCENES_PER_GROUP, Exam, exam


def _first(name: str, count: int = 8) -> list[Exam]:
    return [exam(name, number) for number in range(count)]


def test_there_are_two_hundred_scenes():
    assert len(GROUPS) * SCENES_PER_GROUP == 200


@pytest.mark.parametrize("name", GROUPS)
def test_the_truth_counts_in_the_words_that_are_asked(name: str):
    for one in _first(name):
        assert len(one.words) == len(set(one.words)) == GROUPS[name].words
        assert set(one.scene.labels) <= set(one.words)
        height, width = one.truth.shape
        assert height != width
        for number, label in enumerate(one.scene.labels, start=1):
            asked = one.words.index(label) + 1
            assert np.array_equal(one.truth == asked, one.scene.label_map == number)
        assert ((one.truth > 0) == (one.scene.label_map > 0)).all()


def test_the_order_of_the_words_does_not_tell_what_is_there():
    places = [one.words.index(label) for one in _first("one", 30) for label in one.scene.labels]
    assert len(set(places)) >= 6


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_has_the_objects_that_it_says(name: str):
    most = GROUPS[name].objects[1]
    counts = [len(one.scene.labels) for one in _first(name)]
    assert max(counts) <= most
    assert sum(counts) > 0.6 * len(counts) * GROUPS[name].objects[0]


def test_small_objects_are_small():
    def mean_area(name: str) -> float:
        return float(
            np.mean([(one.truth > 0).mean() / len(one.scene.labels) for one in _first(name)])
        )

    assert 2 * mean_area("small") < mean_area("many")


def test_the_same_number_is_the_same_scene_and_splits_differ():
    one, same, other = exam("many", 3), exam("many", 3), exam("many", 3, "development")
    assert one.words == same.words
    assert np.array_equal(one.scene.image, same.scene.image)
    assert one.words != other.words
