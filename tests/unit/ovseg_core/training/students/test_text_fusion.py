"""The text-fusion network against its equations, its switches, its loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from ovseg_core.segmenter import TextMatrix
from ovseg_core.training.students import (
    ABSENT_LOGIT,
    IGNORED,
    UNLABELLED,
    TextShape,
    TrainingView,
    build_network,
    build_task,
)
from ovseg_core.training.students.shared.trainer import StudentTrainer
from ovseg_core.training.students.text_fusion import (
    Options,
    TextFusionNetwork,
    binary_cross_entropy,
)
from schemas.config import NamedOptions
from schemas.errors import ConfigError

TEXT = TextShape(num_phrases=5, width=12)
CHANNELS, WIDTH, HEADS = (6, 10, 14), 16, 4


class Pyramid(nn.Module):
    """Feature maps of the given strides."""

    def __init__(self, strides_px: tuple[int, ...]) -> None:
        super().__init__()
        channels = CHANNELS[-len(strides_px) :]
        self.levels = nn.ModuleList(
            nn.Conv2d(3, one, px, stride=px) for one, px in zip(channels, strides_px, strict=True)
        )

    def forward(self, pixels_B3HW: Tensor) -> tuple[Tensor, ...]:
        return tuple(level(pixels_B3HW / 255) for level in self.levels)


def network(**options: object) -> TextFusionNetwork:
    torch.manual_seed(0)
    chosen = Options.model_validate({"width": WIDTH, "heads": HEADS, **options})
    strides_px = (4, 8, 16) if chosen.hierarchy else (16,)
    channels = CHANNELS[-len(strides_px) :]
    return TextFusionNetwork(Pyramid(strides_px), channels, strides_px[0], TEXT, chosen).eval()


def images(height: int = 32, width: int = 48, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1)) * 255


def rows(seed: int = 2) -> Tensor:
    return F.normalize(torch.randn(5, 12, generator=torch.Generator().manual_seed(seed)), dim=1)


def restated(net: TextFusionNetwork, pixels_B3HW: Tensor, rows_QD: Tensor) -> Tensor:
    """Equations 1 to 13 for one image after another, with attention written out by head."""
    weights = dict(net.named_parameters())

    def linear(name: str, x: Tensor) -> Tensor:
        weight = weights[f"{name}.weight"]
        return x @ weight.reshape(len(weight), -1).T + weights[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attend(level: int, r: Tensor) -> Tensor:
        """r: (h, w, channels of the level) -> n: (h, w, C)."""
        cells = norm(f"image_norm.{level}", linear(f"image_fc.{level}", r)).reshape(-1, WIDTH)
        text = linear(f"text_fc.{level}", rows_QD * math.sqrt(rows_QD.shape[1]))
        tokens = torch.cat([text, cells])
        kind = dict(zip("qkv", weights[f"attention.{level}.in_proj_weight"].chunk(3), strict=True))
        bias = dict(zip("qkv", weights[f"attention.{level}.in_proj_bias"].chunk(3), strict=True))
        q, k, v = (
            (x @ kind[one].T + bias[one]).reshape(len(x), HEADS, -1)
            for one, x in (("q", cells), ("k", tokens), ("v", tokens))
        )
        read = []
        for head in range(HEADS):
            scores = q[:, head] @ k[:, head].T / math.sqrt(WIDTH // HEADS)
            read.append(scores.softmax(-1) @ v[:, head])
        out = linear(f"attention.{level}.out_proj", torch.cat(read, dim=-1))
        return norm(f"norm.{level}", cells + out).reshape(*r.shape[:2], WIDTH)

    results = []
    for r in zip(*net.backbone(pixels_B3HW), strict=True):
        n_1, n_2, n_3 = (attend(level, one.permute(1, 2, 0)) for level, one in enumerate(r))
        n_2, n_3 = (
            F.interpolate(
                n.permute(2, 0, 1)[None], n_1.shape[:2], mode="bilinear", align_corners=False
            )[0].permute(1, 2, 0)
            for n in (n_2, n_3)
        )
        r_31 = linear("pair_fc.0", torch.cat([n_3, n_1], -1))
        r_32 = linear("pair_fc.1", torch.cat([n_3, n_2], -1))
        r_12 = linear("pair_fc.2", torch.cat([n_1, n_2], -1))
        r_f = linear("triple_fc", torch.cat([n_1, n_2, n_3], -1))
        results.append(linear("head", r_31 + r_32 + r_12 + r_f).permute(2, 0, 1))
    return torch.stack(results)


def test_the_network_computes_the_papers_equations():
    net = network()
    with torch.no_grad():
        torch.testing.assert_close(
            net(images(), rows()), restated(net, images(), rows()), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("size_hw", [(32, 48), (50, 37), (17, 90)])
def test_logits_have_a_cell_every_four_pixels_whatever_the_images_size(size_hw):
    logits = network()(images(*size_hw), rows())
    assert logits.shape == (2, 5, size_hw[0] // 4, size_hw[1] // 4)
    assert network().stride_px == 4


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    net, both = network(), images()
    with torch.no_grad():
        alone = torch.cat([net(one[None], rows()) for one in both])
        torch.testing.assert_close(net(both, rows()), alone, rtol=1e-4, atol=1e-5)


def test_a_closed_set_reads_the_text_too():
    net = network()
    assert not net.is_open
    assert (net(images(), rows()) - net(images(), rows(7))).abs().max() > 1e-3


def test_the_ablation_without_text_does_not_depend_on_it():
    net = network(text=False)
    assert torch.equal(net(images(), rows()), net(images(), rows(7)))
    assert not [name for name, _ in net.named_parameters() if "text" in name]


def test_the_ablation_without_hierarchy_sees_the_coarsest_level_alone():
    net = network(hierarchy=False)
    assert len(net.encode(images())) == 1
    assert net(images(), rows()).shape == (2, 5, 2, 3)
    assert not [name for name, _ in net.named_parameters() if "pair" in name or "triple" in name]


def test_the_text_head_can_be_asked_for_other_words():
    net = network(head="text")
    assert net.is_open
    features = net.encode(images())
    assert net.classify(features, rows()[:3]).shape == (2, 3, 8, 12)
    # Rows change places with their outputs.
    with torch.no_grad():
        flipped = net.classify(features, rows().flip(0)).flip(1)
        torch.testing.assert_close(flipped, net.classify(features, rows()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"text": False}, {"hierarchy": False}, {"head": "text"}, {}])
def test_every_weight_is_trained(options):
    net = network(**options)
    net(images(), rows()).square().sum().backward()
    assert [name for name, one in net.named_parameters() if one.grad is None] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "text", "text": False}, "needs head=conv"),
        ({"width": 30, "heads": 4}, "a multiple of heads"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        Options.model_validate(options)


def test_the_loss_is_the_mean_over_labelled_pixels_and_classes():
    logits = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([0, 1, 2, 3, IGNORED]).repeat(2, 3, 1)
    expected = []
    for b, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4)):
        p = logits[b, :, y, x].sigmoid()
        is_it = torch.arange(4) == labels[b, y, x]
        expected.append(-torch.where(is_it, p, 1 - p).log())
    loss = binary_cross_entropy(logits, labels)
    torch.testing.assert_close(loss.total / loss.count, torch.cat(expected).mean())


def test_void_pixels_have_no_gradient():
    logits = torch.randn(2, 4, 3, 5).requires_grad_()
    labels = torch.ones(2, 3, 5, dtype=torch.int64)
    labels[:, :, 2] = IGNORED
    binary_cross_entropy(logits, labels).total.backward()
    assert logits.grad is not None
    assert (logits.grad[..., 2] == 0).all()
    assert (logits.grad[..., 3] != 0).all()


def test_a_batch_without_labelled_pixels_has_no_loss():
    logits = torch.randn(2, 4, 3, 5).requires_grad_()
    loss = binary_cross_entropy(logits, torch.full((2, 6, 10), IGNORED))
    loss.total.backward()
    assert (loss.total, loss.count) == (0, 0)
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_a_background_without_phrases_does_not_count():
    logits = torch.randn(2, 4, 3, 5)
    with_absent = torch.cat(
        [torch.full((2, 1, 3, 5), ABSENT_LOGIT), logits], dim=1
    ).requires_grad_()
    labels = torch.randint(0, 4, (2, 6, 10), generator=torch.Generator().manual_seed(4))
    loss = binary_cross_entropy(with_absent, labels + 1)
    torch.testing.assert_close(loss, binary_cross_entropy(logits, labels))
    loss.total.backward()
    assert with_absent.grad is not None
    assert with_absent.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "strides_px"),
    [({}, (8, 16, 32)), ({"finest_px": 4}, (4, 8, 16)), ({"hierarchy": False}, (32,))],
)
def test_the_levels_are_those_of_the_backbone(options, strides_px):
    part = NamedOptions(
        name="text_fusion",
        options={"backbone": "test_efficientnet_gn", "width": 16, "heads": 2, **options},
    )
    net = build_network(part, TEXT)
    assert isinstance(net, TextFusionNetwork)
    assert net.stride_px == strides_px[0]
    sizes = [tuple(one.shape[2:]) for one in net.encode(images(64, 96))]
    assert sizes == [(64 // px, 96 // px) for px in strides_px]
    net(images(64, 96), rows()).sum().backward()
    trained = [name for name, one in net.named_parameters() if one.requires_grad]
    assert {name for name, one in net.named_parameters() if one.grad is not None} == set(trained)
    assert any(name.startswith("backbone") for name in trained)


@pytest.mark.parametrize("wrong", ["test_vit", "resnet5O", "hf-hub:someone/resnet50"])
def test_a_backbone_without_such_a_pyramid_is_refused(wrong):
    part = NamedOptions(name="text_fusion", options={"backbone": wrong})
    with pytest.raises(ConfigError, match=r"student\.options\.backbone"):
        build_network(part, TEXT)


def test_an_unlabelled_pixel_takes_the_teachers_label():
    task = build_task(NamedOptions(name="text_fusion"), 0)
    logits = torch.randn(2, 4, 3, 5)
    teacher = torch.randint(-1, 4, (2, 6, 10))
    ours = task.loss(logits, torch.full((2, 6, 10), UNLABELLED), teacher, 0)
    torch.testing.assert_close(ours, binary_cross_entropy(logits, teacher))


def test_the_learning_rate_falls_by_the_power_of_nine_tenths():
    task = build_task(NamedOptions(name="text_fusion", options={"steps": 10}), 0)
    rates = [task.optimisation.factor(step) for step in (0, 5, 9)]
    assert rates == pytest.approx([1, 0.5**0.9, 0.1**0.9])
    assert task.optimisation.name == "adamw"
    assert task.optimisation.learning_rate == 1e-4


def test_without_background_phrases_pixels_of_no_label_do_not_train():
    text = TextMatrix(rows(), torch.tensor([1, 1, 2, 3, 4]), 5)
    task = build_task(NamedOptions(name="text_fusion"), 0)
    labels = torch.zeros(32, 32, dtype=torch.int64)
    half = labels.clone()
    half[:, 16:] = 3
    losses = []
    for one in (labels, half, torch.where(half == 0, IGNORED, half)):
        view = TrainingView(images(32, 32, 1)[0], one, one)
        losses.append(StudentTrainer(network(), task, text).advance([view, view]))
    assert losses[0] == 0
    assert losses[1] == losses[2] > 0
