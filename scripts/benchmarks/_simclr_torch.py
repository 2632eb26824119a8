"""SimCLR in PyTorch for a fixed time: the worker of time_to_knn.py in the peers' environment.

Three forms, on the same encoder:
  lightly           as lightly's own example: its transform on single Pillow images in the processes of a DataLoader,
                    each view through the model on its own, its projection head, which normalises the projections, and
                    its loss
  pytorch           whatever makes it fast on a CPU: images in one tensor, both views of a batch drawn by kornia in one
                    call and put through the model at once, channels last, one matrix product in the loss
  pytorch_compiled  the same, with the model compiled: for the throwaway model already, so that little of it is on the
                    clock
"""

from __future__ import annotations

import gc
import logging
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import _fixed_time
import numpy as np
import torch
from torch import nn
from torch.nn import functional


def shared_encoder() -> nn.Sequential:
    """The encoder of `_fixed_time`, from images `(n, 3, h, w)` to features `(n, 256)`."""
    layers, before = [], 3
    for channels, stride in zip(_fixed_time.CHANNELS, _fixed_time.STRIDES):
        convolution = nn.Conv2d(before, channels, 3, stride, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        before = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Trainer:
    """A model, its optimizer and its learning rate, over so many steps."""

    def __init__(self, job: dict, steps: int):
        torch.manual_seed(job["seed"])
        self.settings, self.steps, self.step_number = job["settings"], steps, 0
        self.precision = getattr(torch, job["precision"])
        self.encoder = shared_encoder()
        self.head = self.new_head(
            _fixed_time.CHANNELS[-1],
            self.settings["hidden_dim"],
            _fixed_time.PROJECTION_DIM,
        )
        self.forward = self.model = nn.Sequential(self.encoder, self.head)
        self.optimizer = self._make_optimizer()
        self._losses: list[torch.Tensor] = []

    def _make_optimizer(self):
        rate, parameters = self.settings["learning_rate"], self.model.parameters()
        if self.settings["optimizer"] == "sgd":
            return torch.optim.SGD(parameters, rate, momentum=0.9, fused=True)
        return torch.optim.Adam(parameters, rate, fused=True)

    def step(self, views) -> None:
        rate = _fixed_time.learning_rate(
            self.step_number, self.steps, self.settings["learning_rate"]
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(views)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._losses.append(loss.detach())
        self.step_number += 1

    def autocast(self):
        """What the layers compute in; the loss is float32."""
        enabled = self.precision != torch.float32
        return torch.autocast("cpu", self.precision, enabled=enabled)

    def project(self, views: torch.Tensor) -> torch.Tensor:
        with self.autocast():
            return self.forward(views).float()

    def mean_loss(self) -> float:
        mean = torch.stack(self._losses).mean().item()
        self._losses.clear()
        return mean

    def features(self, images: np.ndarray) -> np.ndarray:
        self.model.eval()
        with torch.inference_mode(), self.autocast():
            found = self.encoder(self.as_served(_as_tensor(images))).float().numpy()
        self.model.train()
        return found


class Lightly(Trainer):
    """lightly, as it ships."""

    def __init__(self, job: dict, steps: int):
        from lightly.loss import NTXentLoss

        super().__init__(job, steps)
        self.criterion = NTXentLoss(temperature=self.settings["temperature"])

    @staticmethod
    def new_head(features: int, hidden: int, projections: int) -> nn.Module:
        """Its own: it normalises the projections too."""
        from lightly.models.modules import SimCLRProjectionHead

        return SimCLRProjectionHead(features, hidden, projections)

    def loss(self, views):
        first, second = views
        return self.criterion(self.project(first), self.project(second))

    @staticmethod
    def as_served(images: torch.Tensor) -> torch.Tensor:
        """Images `(n, 3, h, w)` in 0..1 as the views of the transform: less the mean, in standard deviations."""
        from lightly.transforms.utils import IMAGENET_NORMALIZE

        mean, std = (
            torch.tensor(IMAGENET_NORMALIZE[name])[:, None, None]
            for name in ("mean", "std")
        )
        return (images - mean) / std

    @staticmethod
    def views(job: dict, images: np.ndarray):
        """Pairs of batches without end: the first views, the second views."""
        from lightly.transforms import SimCLRTransform

        transform = SimCLRTransform(
            input_size=images.shape[1],
            min_scale=job["settings"]["min_area"],
            cj_strength=job["settings"]["strength"],
            gaussian_blur=job["settings"].get("gaussian_blur", 0.0),
        )
        loader = torch.utils.data.DataLoader(
            Pictures(images, transform),
            job["batch_size"],
            shuffle=True,
            drop_last=True,
            num_workers=job["workers"],
            persistent_workers=job["workers"] > 0,
            generator=torch.Generator().manual_seed(job["seed"]),
        )
        while True:
            yield from loader


class Pictures(torch.utils.data.Dataset):
    """Arrays as Pillow images, as torchvision's CIFAR-10 has them."""

    def __init__(self, images: np.ndarray, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index]))


class Fast(Trainer):
    """PyTorch, as fast as we could make it on a CPU."""

    def __init__(self, job: dict, steps: int):
        super().__init__(job, steps)
        self.encoder.to(memory_format=torch.channels_last)
        if job["run"] == "pytorch_compiled":
            self.forward = torch.compile(self.model, dynamic=False)

    @staticmethod
    def new_head(features: int, hidden: int, projections: int) -> nn.Module:
        """As our `heads.mlp`."""
        return nn.Sequential(
            nn.Linear(features, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, projections),
        )

    def loss(self, views):
        return nt_xent(self.project(views), self.settings["temperature"])

    @staticmethod
    def as_served(images: torch.Tensor) -> torch.Tensor:
        return images.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def views(job: dict, images: np.ndarray):
        """Batches without end: all first views, then all second ones."""
        from kornia import augmentation

        settings, side = job["settings"], images.shape[1]
        strength = settings["strength"]
        transform = nn.Sequential(
            augmentation.RandomResizedCrop(
                (side, side),
                scale=(settings["min_area"], 1.0),
                cropping_mode=CROPPING_MODE,
            ),
            augmentation.RandomHorizontalFlip(),
            augmentation.ColorJitter(
                0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, p=0.8
            ),
            augmentation.RandomGrayscale(p=0.2),
        )
        pool = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        size = job["batch_size"]
        generator = torch.Generator().manual_seed(job["seed"])
        while True:
            order = torch.randperm(len(pool), generator=generator)
            for start in range(0, len(order) - size + 1, size):
                rows = order[start : start + size].repeat(2)
                with torch.no_grad():
                    views = transform(pool[rows].float().div_(255))
                yield views.contiguous(memory_format=torch.channels_last)


# "slice" crops and scales one image after the other, "resample" samples all in one call.
CROPPING_MODE = "resample"


def nt_xent(projections: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent of rows of which i and i + n / 2 are two views of one image."""
    rows = functional.normalize(projections, dim=1)
    logits = rows @ rows.T / temperature
    logits.fill_diagonal_(-torch.inf)
    count = len(rows)
    partners = (torch.arange(count) + count // 2) % count
    return functional.cross_entropy(logits, partners)


def _as_tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def work(job: dict, folder: Path) -> dict:
    quiet()
    torch.set_num_threads(job["threads"])
    images = _fixed_time.load(job["data"], hold_out=job["hold_out"])
    make = Fast if job["run"].startswith("pytorch") else Lightly
    seconds_per_step = timed(make, job, images)
    if job["only_speed"]:
        return {"seconds_per_step": seconds_per_step}
    steps = _fixed_time.steps_in(job["seconds"], seconds_per_step)
    trainer = make(job, steps)
    watch = _fixed_time.Watch(
        job,
        folder,
        images,
        steps=steps,
        features=trainer.features,
        mean_loss=trainer.mean_loss,
    )
    views = make.views(job, images.train)
    watch.start()
    for _ in range(steps):
        trainer.step(next(views))
        watch.after_step()
    return watch.result(seconds_per_step)


def timed(make, job: dict, images: _fixed_time.Images) -> float:
    """Seconds of a step of a throwaway model."""
    trainer, pace = make(job, 1000), _fixed_time.Pace(job["timed_seconds"])
    views = make.views(job, images.train)
    trainer.step(next(views))
    while not pace.after_step():
        trainer.step(next(views))
    views.close()  # and with it the loader's processes
    del trainer, views
    gc.collect()
    return pace.seconds_per_step()


def quiet() -> None:
    """No remarks on graphics cards and on names that are to change."""
    warnings.filterwarnings("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(_fixed_time.serve(sys.argv[1], work))
