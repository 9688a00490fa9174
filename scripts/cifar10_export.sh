#!/usr/bin/env bash
# The table outputs/tables/export-cpu.csv: ResNet-20 and VGG-16 on CIFAR-10 with half and a quarter of their
# multiply-adds, exported, predicted and timed. A short recipe (4 dense, 1 prune, 1 finetune epochs), one seed: it shows
# what removal is worth, not what a method is. Over an hour on two cores; started again, it does what is missing.
# Further key=value words go to every run, such as data_dir=DIR; $DATA (default: data) is where the timing looks.
set -euo pipefail
common=(dataset=cifar10 recipe=short recipe.dense_epochs=4 recipe.prune_epochs=1 recipe.finetune_epochs=1
    method=gmp granularity=filter budget=macs sparsity=0.5,0.75 output_dir=outputs/export latency_batch=32)
pruner -m "${common[@]}" model=resnet20,vgg16 "$@"
python scripts/bench_export.py outputs/export/cifar10-*/*/ --data-dir "${DATA:-data}"
