#!/usr/bin/env bash
# What a machine with one NVIDIA GPU is to measure, into outputs/tables/*-cuda*.csv: the benchmarks that have CPU tables
# here, cells an hour with 1, 4 and 8 of them at once, and a full row, with its time. No GPU has run it yet.
#
#     scripts/bench_gpu.sh [key=value ...]
#
# The words go to every sweep and run, such as data_dir=DIR. DEVICE=cpu tries it out where there is no GPU.
set -euo pipefail
device=${DEVICE:-cuda}
tables=outputs/tables
methods=dtp,smart,spartan,dsa,gmp
resnet50="model=torchvision model.arch=resnet50 dataset.image_size=224 dataset.train_size=64 recipe.batch_size=16"

python scripts/bench_projection.py --device "$device" --units 25600000 100000000
python scripts/bench_steps.py --device "$device" --methods $methods --output "$tables/bench-steps-resnet20-$device.csv"
# shellcheck disable=SC2086
python scripts/bench_steps.py --device "$device" --methods $methods $resnet50 \
    --output "$tables/bench-steps-resnet50-$device.csv"
for cells in 1 4 8; do
    python scripts/bench_sweep.py --rounds 1 --output "$tables/bench-sweep-$device-$cells.csv" \
        dataset=cifar10 recipe=short device="$device" hydra.sweeper.cells_per_gpu=$cells "$@"
done
pruner dataset=cifar10 recipe=cifar recipe.dense_epochs=160 recipe.precision=bfloat16 method=dtp sparsity=0.95 \
    device="$device" output_dir=outputs/bench_gpu "$@" # 160 + 60 + 60 epochs; seconds are in its row
