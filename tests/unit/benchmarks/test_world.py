import numpy as np
import pytest

from benchmarks.world import GROUPS, SCENES_PER_GROUP, LabelledScene, labelled_scene


def _first(name: str, count: int = 8) -> list[LabelledScene]:
    return [labelled_scene(name, number) for number in range(count)]


def test_groups_have_two_hundred_scenes():
    assert len(GROUPS) * SCENES_PER_GROUP == 200


@pytest.mark.parametrize("name", GROUPS)
def test_truth_has_the_numbers_of_the_vocabulary(name: str):
    for one in _first(name):
        assert len(one.labels) == len(set(one.labels)) == GROUPS[name].num_labels
        assert set(one.scene.labels) <= set(one.labels)
        height, width = one.truth.shape
        assert height != width
        for number, label in enumerate(one.scene.labels, start=1):
            asked = one.labels.index(label) + 1
            assert np.array_equal(one.truth == asked, one.scene.label_map == number)
        assert ((one.truth > 0) == (one.scene.label_map > 0)).all()


def test_order_of_the_labels_is_random():
    places = [one.labels.index(label) for one in _first("one", 30) for label in one.scene.labels]
    assert len(set(places)) >= 6


@pytest.mark.parametrize("name", GROUPS)
def test_group_has_its_number_of_objects(name: str):
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


def test_labelled_scene_depends_on_number_and_split_only():
    one, same, other = (
        labelled_scene("many", 3),
        labelled_scene("many", 3),
        labelled_scene("many", 3, "development"),
    )
    assert one.labels == same.labels
    assert np.array_equal(one.scene.image, same.scene.image)
    assert one.labels != other.labels
