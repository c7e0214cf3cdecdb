"""ResNet-18 of binary layers on CIFAR-10: widths and weight decays, and the trained net on packed bits.

Repeats a study of ``--width`` (channels of the first stage, 64 to 256) and ``--weight-decay``: 200 epochs,
accuracies averaged over the last ten. Its notes leave the learning rate, the batch and the augmentation open,
except that 2e-3 and 64 were the exception; here it is Adam with 1e-3 falling linearly to 0, batches of 128,
images cut anew out of a padded frame and mirrored. ``--binary false`` is the same net in full precision.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import binarize
from .config import ConfigError, ImageConfig, TrainConfig, setting
from .recipe import Recipe, Scale
from .timing import compare
from .train import Trainer
from .xnor_resnet18_net import resnet18

NAME = "xnor-resnet18"
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)  # of CIFAR-10's training images, by colour
TRAIN_TESTED = 10_000  # training images, at most, on which an epoch's training loss and accuracy are taken
COMPARED = 100  # test images on which the packed net is compared to the float one
TIMED_BATCHES, ROUNDS, SMOKE_ROUNDS = (1, 8), 20, 5


@dataclass(frozen=True)
class XnorConfig(ImageConfig):
    """The net's width, and how it is binarised."""

    methods: ClassVar[tuple[str, ...]] = ("none",)

    width: int = setting(64, "channels of the first stage; the study has 64 to 256")
    binary: bool = setting(True, "false: the same net in full precision")
    estimator: str = setting(
        "hard-tanh", "stand-in for sign's derivative: hard-tanh, steep, swish, polynomial"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("width", 1, 1024)
        self.check_choice("estimator", ("hard-tanh", "steep", "swish", "polynomial"))
        if self.image[0] != 3:
            raise ConfigError(f"image: {self.image[0]} channels given, 3 accepted")


def build(config: XnorConfig) -> torch.nn.Sequential:
    """The net, freshly initialised from torch's generator."""
    return resnet18(config.width, config.classes, binary=config.binary, estimator=config.estimator)


def prepare(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> float32, each colour with CIFAR-10's mean and deviation taken out."""
    mean, std = (torch.tensor(v, device=images.device).reshape(3, 1, 1) for v in (MEAN, STD))
    return (images.to(torch.float32) - mean) / std


def measure(trainer: Trainer) -> dict[str, float]:
    """Loss and error on training images as they are, in eval mode, as on the test set."""
    step = -(-len(trainer.train_x) // TRAIN_TESTED)  # spread over the set, which may be sorted by class
    x, y = trainer.train_x[::step], trainer.train_y[::step]
    nll, error = trainer.evaluate(trainer.model, prepare(x) if trainer.prepares else x, y)
    return {"train_nll": nll, "train_error": error}


def finish(trainer: Trainer) -> dict[str, Any]:
    """Pack the net: does it give the same, how large and how fast is it beside plain layers?"""
    config = trainer.config
    assert isinstance(config, XnorConfig)
    if not config.binary:
        return {}
    net = copy.deepcopy(trainer.model).cpu().eval()
    packed = binarize(net)
    plain = resnet18(config.width, config.classes, binary=False).eval()
    x = trainer.test_x[:COMPARED].cpu()
    with torch.inference_mode():
        expected, got = net(x), packed(x)
    rounds = SMOKE_ROUNDS if config.scale == "smoke" else ROUNDS
    times = compare(plain, packed, x, TIMED_BATCHES, rounds)
    return {
        "The net on packed bits": [
            {
                "images": len(x),
                "equal to the bit": torch.equal(expected, got),
                "largest difference": float((expected - got).abs().max()),
                "other predictions": int((expected.argmax(1) != got.argmax(1)).sum()),
                "bytes of floats": _bytes(net),
                "bytes packed": _bytes(packed),
            }
        ],
        "Packed bits beside plain layers of the same size": [
            {
                "batch": row["batch"],
                "plain, us": row["dense"]["median_us"],
                "packed, us": row["pruned"]["median_us"],
                "speed-up": row["speed_up"],
            }
            for row in times
        ],
    }


def _bytes(net: torch.nn.Module) -> int:
    """Of all that the net keeps."""
    return sum(value.numel() * value.element_size() for value in net.state_dict().values())


def default_config(train_size: int) -> TrainConfig:
    """200 epochs as in the study; see the module for what it leaves open."""
    return XnorConfig(
        recipe=NAME, method="none", epochs=200, batch_size=128, lr_decay_start=0.0, augment="pad-crop-flip"
    )


RECIPE = Recipe(
    name=NAME,
    summary="ResNet-18 of binary layers on CIFAR-10, in the end on packed bits",
    build=build,
    prepare=prepare,
    default_config=default_config,
    config=XnorConfig,
    data="images",
    measure=measure,
    finish=finish,
    small=Scale(train=2_000, test=1_000, epochs=5),
    smoke=Scale(train=128, test=32, epochs=2),
)
