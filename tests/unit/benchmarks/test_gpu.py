from pathlib import Path

from benchmarks import gpu


def test_the_gpus_script_runs_through_on_the_cpu(tmp_path: Path) -> None:
    found = gpu.measure("cpu", ["maskclip"], tmp_path)
    assert found["left_out"] == []
    assert found["matrix_bf16_tflops"] >= 0
    assert found["bare_encoder_images_per_s"] > 0
    assert found["methods"]["maskclip"]["segmenter_images_per_s"] > 0
    assert found["methods"]["maskclip"]["job_images_per_s"] > 0
