"""MaskCLIP+: the paper's head, the text classifier, the loss, self-training."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.training.students import (
    IGNORED,
    UNLABELLED,
    StudentTask,
    TextShape,
    build_network,
    build_task,
)
from ovseg_core.training.students.maskclip_plus import MaskClipPlusNetwork
from schemas.config import NamedOptions
from schemas.errors import ConfigError

SMALL = {"backbone": "test_convnext", "backbone_weights": "random", "channels": 8}


def part(**options: Any) -> NamedOptions:
    return NamedOptions(name="maskclip_plus", options={**SMALL, **options})


def network(**options: Any) -> MaskClipPlusNetwork:
    torch.manual_seed(0)
    made = build_network(part(**options), TextShape(num_phrases=5, width=12))
    assert isinstance(made, MaskClipPlusNetwork)
    return made.eval()


def task(**options: Any) -> StudentTask:
    return build_task(part(**options), 0)


def images(height: int = 64, width: int = 96, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1)) * 255


def rows(count: int = 5) -> Tensor:
    return F.normalize(torch.randn(count, 12, generator=torch.Generator().manual_seed(2)), dim=1)


@pytest.mark.parametrize(
    ("options", "stride_px"),
    [
        ({}, 4),
        ({"backbone": "mobilenetv4_conv_small_050"}, 4),  # has a map at stride 2, not used
        ({"backbone": "test_resnet", "head": "aspp"}, 8),
    ],
)
def test_a_cell_is_the_product_of_its_feature_with_the_text_rows(
    options: dict, stride_px: int
) -> None:
    net = network(**options)
    with torch.inference_mode():
        (features,) = net.encode(images())
        logits = net(images(), rows())
    assert net.stride_px == stride_px
    assert features.shape == (2, 12, 64 // stride_px, 96 // stride_px)
    cell = features[1, :, 3, 5]
    torch.testing.assert_close(logits[1, :, 3, 5], rows() @ cell, rtol=1e-4, atol=1e-5)
    assert (cell.norm() - 1).abs() > 1e-3  # features are not normalised


def test_other_words_can_be_asked_for() -> None:
    net = network()
    assert net.is_open
    assert net.classify(net.encode(images()), rows(9)).shape == (2, 9, 16, 24)


def test_the_papers_head_sums_four_dilated_branches() -> None:
    net = network(backbone="test_resnet", head="aspp")
    (last,) = net.backbone(images())
    head: Any = net.head
    branches: list[Any] = list(head.branches)
    expected = torch.zeros(())
    for rate, (conv, norm, _) in zip((6, 12, 18, 24), branches, strict=True):
        found = F.conv2d(last, conv.weight, padding=rate, dilation=rate)
        mean, var = norm.running_mean.view(-1, 1, 1), norm.running_var.view(-1, 1, 1)
        expected = expected + ((found - mean) / (var + norm.eps).sqrt()).relu()
    torch.testing.assert_close(net.encode(images())[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"backbone": "mobilenetv4_conv_small_050"}, {"head": "aspp"}]
)
def test_every_weight_is_trained_but_not_the_text(options: dict) -> None:
    """Else several workers would wait for gradients that never come."""
    net, text = network(**options), rows().requires_grad_()
    net(images(), text.detach()).square().sum().backward()
    assert [name for name, one in net.named_parameters() if one.grad is None] == []
    assert not any("text" in name for name in net.state_dict())


def test_the_default_head_does_not_depend_on_the_others_of_a_batch() -> None:
    net = network().train()
    with torch.no_grad():
        alone = torch.cat([net(one[None], rows()) for one in images()])
        torch.testing.assert_close(net(images(), rows()), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnext_nanno", "no model 'convnext_nanno'.*id you mean 'convnext_nano'"),
        ("hf-hub:someone/net", "timm has no model"),
        ("local-dir:/etc", "timm has no model"),
        ("mixer_b16_224", "gives no pyramid"),  # reads images of one size only
    ],
)
def test_backbones_that_cannot_be_used_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network(backbone=name)


def test_the_papers_head_needs_a_backbone_that_can_be_dilated() -> None:
    with pytest.raises(ConfigError, match=r"'test_vit' gives no map at stride 8.*`resnet101` does"):
        network(backbone="test_vit", head="aspp")


def logits(seed: int = 3) -> Tensor:
    return torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(seed))


def label_maps() -> tuple[Tensor, Tensor]:
    """Labels with unlabelled and ignored pixels, and a teacher with some ignored."""
    random = torch.Generator().manual_seed(4)
    labels = torch.randint(-2, 3, (2, 6, 8), generator=random)
    teacher = torch.randint(-1, 3, (2, 6, 8), generator=random)
    return labels, teacher


def expected_loss(of: Tensor, fill: Tensor) -> tuple[float, int]:
    labels, _ = label_maps()
    targets = torch.where(labels == UNLABELLED, fill, labels)
    counts = targets != IGNORED
    chosen = of.log_softmax(1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return -float(chosen[counts].sum()), int(counts.sum())


def test_before_self_training_unlabelled_pixels_have_the_teachers_labels() -> None:
    labels, teacher = label_maps()
    loss = task(steps=10, self_training_from=0.5).loss(logits(), labels, teacher, 4)
    assert (float(loss.total), int(loss.count)) == pytest.approx(expected_loss(logits(), teacher))


def test_in_self_training_they_have_the_students_own_but_void_stays_void() -> None:
    labels, teacher = label_maps()
    own = torch.where(teacher == IGNORED, IGNORED, logits().argmax(1))
    loss = task(steps=10, self_training_from=0.5).loss(logits(), labels, teacher, 5)
    assert (float(loss.total), int(loss.count)) == pytest.approx(expected_loss(logits(), own))


def test_own_labels_are_never_of_a_class_that_people_labelled_everywhere() -> None:
    labels, teacher = label_maps()
    known = torch.tensor([False, True, False])
    unknown = logits()[:, [0, 2]].argmax(1) * 2
    own = torch.where(teacher == IGNORED, IGNORED, unknown)
    loss = task(steps=10, self_training_from=0.0).loss(logits(), labels, teacher, 0, known)
    assert (float(loss.total), int(loss.count)) == pytest.approx(expected_loss(logits(), own))


def test_self_training_is_off_as_published_where_nothing_is_labelled() -> None:
    labels, teacher = label_maps()
    last = task(steps=10).loss(logits(), labels, teacher, 9)
    assert float(last.total) == pytest.approx(expected_loss(logits(), teacher)[0])


def test_a_coarser_loss_reads_the_middle_of_every_square() -> None:
    labels = torch.full((2, 24, 32), IGNORED)
    labels[:, 2::4, 2::4] = 1
    loss = task(loss_px=4).loss(logits(), labels, labels, 0)
    assert int(loss.count) == 2 * 6 * 8
    torch.testing.assert_close(loss.total, -logits().log_softmax(1)[:, 1].sum())


def test_the_schedule_is_the_papers() -> None:
    optimisation = build_task(NamedOptions(name="maskclip_plus"), 0).optimisation
    assert (optimisation.name, optimisation.learning_rate, optimisation.momentum) == (
        "sgd",
        0.01,
        0.9,
    )
    assert optimisation.weight_decay == 5e-4
    assert optimisation.factor(0) == 1
    assert optimisation.factor(2000) == pytest.approx(0.01)  # 1e-4 at last
