#!/usr/bin/env python3
"""A plain training script, as one writes it from torchvision's tutorials: the yardstick of scripts/bench_epoch.py.

DataLoader, PIL transforms, float32, the default memory layout, a sync for the loss at every step. It trains ResNet-20
on CIFAR-10 with the rates of conf/recipe/short.yaml, and knows nothing of pruner but its network and its images.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pruner.models.resnet import resnet20

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Cifar10(Dataset):
    """As torchvision.datasets.CIFAR10 gives its images: from an array by way of PIL."""

    def __init__(self, path: Path, part: str, transform: transforms.Compose) -> None:
        tensors = load_file(path)
        self.images = tensors[f"{part}_images"].permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = tensors[f"{part}_labels"].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)  # 0, 1 and 2 were tried on 2 cores: 118, 113, 120 s
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    to_tensor = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    path = Path(given.data_dir) / "cifar10.safetensors"
    train = Cifar10(path, "train", transforms.Compose([*augment, *to_tensor]))
    test = Cifar10(path, "test", transforms.Compose(to_tensor))
    loader = DataLoader(train, batch_size=128, shuffle=True, num_workers=given.workers, drop_last=True)
    test_loader = DataLoader(test, batch_size=500, num_workers=given.workers)
    model = resnet20((3, 32, 32), 10)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = given.epochs * len(loader)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-8, 1.0, steps // 5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - steps // 5)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], [steps // 5])
    seconds = []
    for _ in range(given.epochs):
        model.train()
        running = 0.0
        start = time.perf_counter()
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            running += loss.item()
        seconds.append(time.perf_counter() - start)
    model.eval()
    with torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in test_loader)
    print(json.dumps({"seconds": seconds, "accuracy": 100 * right / len(test)}))


if __name__ == "__main__":
    main()
