import pytest
from pydantic import ValidationError

from schemas.config import ArrayTask, Calibration, HeadConfig, JobConfig, RunConfig, StudentConfig

JOB = {"images": "photos", "out": "run", "labels": ["cat"]}


def test_labels_stand_for_a_vocabulary():
    assert JobConfig.model_validate(JOB).vocabulary.names == ("cat",)
    with pytest.raises(ValidationError, match="not both"):
        JobConfig.model_validate({**JOB, "vocabulary": ["dog"]})


def test_name_alone_is_a_method_without_options():
    config = JobConfig.model_validate({**JOB, "method": "maskclip"})
    assert config.method.name == "maskclip"
    assert config.method.options == {}


@pytest.mark.parametrize(
    "wrong", [{"metod": "clip_diy"}, {"run": {"bach_size": 1}}, {"shard_size": -1}]
)
def test_unknown_keys_and_impossible_values_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        JobConfig.model_validate({**JOB, **wrong})


def test_run_fields_are_not_output_fields():
    base = JobConfig.model_validate(JOB)
    spread = JobConfig.model_validate(
        {**JOB, "out": "elsewhere", "run": {"workers": 7, "batch_size": 1, "device": "cpu"}}
    )
    assert base.output_fields() == spread.output_fields()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"method": "maskclip"}, "method.name"),
        ({"clip": {"model": "embedded"}}, "clip.model"),
        ({"masks": {"min_area_px": 9}}, "masks.min_area_px"),
        ({"labels": ["dog"]}, "vocabulary.labels"),
        ({"image": {"limit": 3}}, "image.limit"),
    ],
)
def test_output_fields_name_the_difference(change, field):
    base = JobConfig.model_validate(JOB).output_fields()
    other = JobConfig.model_validate({**JOB, **change}).output_fields()
    assert [key for key in base if base[key] != other[key]] == [field]


@pytest.mark.parametrize(
    ("clip", "vision", "resolved"),
    [
        ("embedded", "auto", "embedded"),
        ("ViT-B-32", "auto", "vit_small_patch8_224.dino"),
        ("embedded", "vit_base_patch16_224.dino", "vit_base_patch16_224.dino"),
    ],
)
def test_auto_vision_model_follows_clip(clip, vision, resolved):
    config = JobConfig.model_validate({**JOB, "clip": {"model": clip}, "vision": {"model": vision}})
    assert config.vision_model == resolved


@pytest.mark.parametrize(
    ("num_images", "size"), [(1, 8), (40, 8), (513, 16), (1000, 16), (16_384, 256), (10**7, 256)]
)
def test_images_per_shard_of_small_and_large_jobs(num_images, size):
    assert JobConfig.model_validate(JOB).images_per_shard(num_images) == size
    assert JobConfig.model_validate({**JOB, "shard_size": 5}).images_per_shard(num_images) == 5


@pytest.mark.parametrize(("cores", "threads"), [(0.25, 1), (1.0, 1), (2.5, 2), (4.0, 4)])
def test_threads_follow_the_share_of_the_cores(cores: float, threads: int) -> None:
    assert RunConfig(cpus_per_worker=cores).threads_per_worker == threads


CALIBRATION = Calibration(
    method="clip_diy",
    scores=(0.2, 0.6, 0.8),
    probabilities=(0.1, 0.3, 0.9),
    thresholds={"cat": 0.5, "dog": 0.0},
    default_threshold=0.25,
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scores": (0.2, 0.2, 0.8)},
        {"probabilities": (0.3, 0.1, 0.9)},
        {"probabilities": (0.1, 0.3)},
        {"scores": (), "probabilities": ()},
        {"version": 2},
        {"thresholds": {"cat": 1.5}},
    ],
)
def test_damaged_calibration_is_refused(wrong):
    with pytest.raises(ValidationError):
        Calibration.model_validate(CALIBRATION.model_dump() | wrong)


def test_labels_without_a_threshold_have_the_default():
    assert [CALIBRATION.threshold(label) for label in ("cat", "dog", "owl")] == [0.5, 0.0, 0.25]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either teacher"),
        ({"teacher": "run", "protocol": "camvid", "data": "CamVid"}, "either teacher"),
        ({"protocol": "camvid"}, "go together"),
        ({"teacher": "run", "data": "CamVid"}, "go together"),
        ({"protocol": "camvid", "data": "CamVid", "truth": "truth.json"}, "its own truth"),
        ({"protocol": "camvid", "data": "CamVid", "masks": "reviewed"}, "its own truth"),
    ],
)
def test_a_student_learns_from_a_run_or_from_a_data_set(fields, message):
    with pytest.raises(ValidationError, match=message):
        StudentConfig.model_validate({"out": "student", **fields})


@pytest.mark.parametrize("fields", [{"teacher": "run"}, {"protocol": "camvid", "data": "CamVid"}])
def test_one_source_of_labels_is_enough_for_a_student(fields):
    assert StudentConfig.model_validate({"out": "student", **fields}).student.name


def test_a_task_runs_without_ray_and_is_no_output_field():
    job = JobConfig.model_validate({**JOB, "run": {"shards": "3/8", "local": False}})
    assert job.run.local
    assert job.run.task == ArrayTask(3, 8)
    assert job.output_fields() == JobConfig.model_validate(JOB).output_fields()


@pytest.mark.parametrize("num_tasks", [1, 2, 8, 30])
def test_tasks_share_all_shards(num_tasks):
    tasks = [ArrayTask(number, num_tasks) for number in range(1, num_tasks + 1)]
    assert sorted(shard for task in tasks for shard in range(20)[task.own]) == list(range(20))
    assert all(task.owns(shard) for task in tasks for shard in range(20)[task.own])


@pytest.mark.parametrize(
    "shards", ["0/8", "9/8", "a/b", "8", "1/2/3", "-1/8", "1/0", "/8", " 1/8", "1/8\n"]
)
def test_a_task_that_cannot_be_is_refused(shards):
    with pytest.raises(ValidationError, match="expected TASK/TASKS, such as 3/8"):
        RunConfig(shards=shards)


def test_a_training_has_no_shards():
    fields = {"images": "photos", "out": "head.safetensors", "head": {"name": "found"}}
    with pytest.raises(ValidationError, match="a training has no shards"):
        HeadConfig.model_validate({**fields, "run": {"shards": "1/2"}})
