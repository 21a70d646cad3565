"""A try session without a server: any method on a run's backbones, requests before warm-up."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jobs.demo.scenes import Layout, all_phrases, draw_scene
from ovseg_core.images.decoding.decode import DecodedImage
from pipeline.review.try_session import RequestsFirst, RunBackbones, TryImage, TrySession
from schemas.config import ClipConfig, JobConfig
from schemas.errors import UserError, WeightsError

EMBEDDED = {"images": "x", "out": "y", "labels": ["red circle"], "clip": {"model": "embedded"}}


def test_every_method_runs_on_the_backbones_of_the_run():
    session = TrySession(JobConfig.model_validate(EMBEDDED | {"run": {"device": "cpu"}}))
    assert session.own_method().name == "clip_diy"
    others = list(session.other_methods())
    assert [one for one in others if one.reason] == []
    assert {"maskclip", "proxyclip"} <= {one.name for one in others}


def test_backbones_of_a_run_load_no_other_network():
    backbones = RunBackbones(clip=ClipConfig(model="embedded"), vision_model="embedded")
    assert backbones.network_or("vit_small_patch8_224.dino") == "embedded"
    with pytest.raises(WeightsError, match="the run has embedded"):
        backbones.network("vit_small_patch8_224.dino")


def test_other_words_are_scored_on_kept_features():
    session = TrySession(JobConfig.model_validate(EMBEDDED | {"run": {"device": "cpu"}}))
    decoded = []

    def image(key: str) -> TryImage:
        def decode(side_px: int) -> DecodedImage:
            decoded.append(key)
            rgb = np.random.default_rng(len(key)).integers(0, 255, (60, 90, 3), dtype=np.uint8)
            return DecodedImage(rgb, 60, 90, 1)

        return TryImage(key, f"{key}.png", decode)

    first = session.segment(image("a"), ["red circle", "Blue Star"], "maskclip")
    again = session.segment(image("a"), ["green ring"], "maskclip")
    other = session.segment(image("bb"), ["green ring"], "maskclip")
    assert (first.encoded, again.encoded, other.encoded) == (True, False, True)
    assert (first.seconds["encode"] > 0, again.seconds["encode"]) == (True, 0.0)
    assert decoded == ["a", "bb"]
    assert session.num_encoded == 2
    assert [score.label for score in first.masks.label_scores] == ["red circle", "Blue Star"]
    for words in ([], ["star"] * 65, ["star", "Star"], ["x" * 300]):
        with pytest.raises(UserError):
            session.segment(image("a"), words, "maskclip")
    with pytest.raises(UserError, match="no 'nothing' among"):
        session.segment(image("a"), ["star"], "nothing")


def test_warm_up_keeps_no_features_and_lets_requests_in():
    session = TrySession(JobConfig.model_validate(EMBEDDED | {"run": {"device": "cpu"}}))
    with ThreadPoolExecutor(1) as pool:
        warming = pool.submit(session.warm_up)
        rgb = np.random.default_rng(1).integers(0, 255, (60, 90, 3), dtype=np.uint8)
        image = TryImage("a", "a.png", lambda _: DecodedImage(rgb, 60, 90, 1))
        meanwhile = session.segment(image, ["red circle"], "naclip")
        used = warming.result(60)
    assert set(used) == {one.name for one in session.other_methods() if not one.reason}
    assert session.num_encoded == 1
    assert session.warm_up() == []
    again = session.segment(image, ["red circle"], "naclip")
    assert not again.encoded
    assert [vars(one) for one in again.masks.segments] == [
        vars(one) for one in meanwhile.masks.segments
    ]


def test_warm_up_does_nothing_after_the_end():
    session = TrySession(JobConfig.model_validate(EMBEDDED | {"run": {"device": "cpu"}}))
    session.end()
    assert session.warm_up() == []


def test_requests_go_before_background_work_that_waited_longer():
    lock, order = RequestsFirst(), []
    holds, free = threading.Event(), threading.Event()

    def hold() -> None:
        with lock.background():
            holds.set()
            free.wait(20)

    def take(hold_lock, name: str) -> None:
        with hold_lock():
            order.append(name)

    threads = [threading.Thread(target=hold)]
    for hold_lock, name in (
        (lock.background, "work"), (lock.background, "more work"), (lock.request, "one"),
        (lock.request, "other"),
    ):  # fmt: skip
        threads.append(threading.Thread(target=take, args=(hold_lock, name)))
    threads[0].start()
    assert holds.wait(20)
    for thread in threads[1:]:
        thread.start()
    give_up = time.monotonic() + 20
    while lock.num_requests < 2 and time.monotonic() < give_up:
        time.sleep(0.001)
    free.set()
    for thread in threads:
        thread.join(20)
    assert set(order[:2]) == {"one", "other"}
    assert set(order[2:]) == {"work", "more work"}


def test_lock_is_released_after_an_error():
    lock = RequestsFirst()
    for hold_lock in (lock.request, lock.background, lock.request):
        with pytest.raises(ZeroDivisionError), hold_lock():
            raise ZeroDivisionError
    assert lock.num_requests == 0
    with lock.background():
        pass


def test_the_runs_own_method_finds_instances_as_the_run_does():
    method = {"name": "maskclip", "options": {"proposals": "sam", "objectness": "found"}}
    job = {**EMBEDDED, "method": method, "masks": {"segments": "instances"}}
    session = TrySession(JobConfig.model_validate(job | {"run": {"device": "cpu"}}))
    rgb = draw_scene(3, (96, 144), 3, layout=Layout(min_visible=1.0)).image
    image = TryImage("a", "a.png", lambda _: DecodedImage(rgb, *rgb.shape[:2], 1))
    own, other = (
        session.segment(image, list(all_phrases()[:20]), name).masks.segments
        for name in ("maskclip", "sclip")
    )
    assert {one.kind for one in own} == {"instance"}
    assert {one.kind for one in other} == {"class"}
