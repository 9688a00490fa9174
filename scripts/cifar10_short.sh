#!/usr/bin/env bash
# The tables outputs/tables/cifar10-resnet20-short.*: four methods on ResNet-20 and CIFAR-10 with the short recipe
# (10 dense, 5 prune, 2 finetune epochs), one seed. One to two hours on two cores; started again, it does what is
# missing. Further key=value words go to every run, such as data_dir=DIR or seed=0,1,2.
set -euo pipefail
common=(dataset=cifar10 model=resnet20 recipe=short method=dtp,gmp,magnitude,random threads=1 output_dir=outputs)
pruner -m "${common[@]}" sparsity=0.9,0.95 "$@"
pruner -m "${common[@]}" granularity=filter budget=macs sparsity=0.5 "$@"
pruner-compare outputs/cifar10-resnet20 --output outputs/tables/cifar10-resnet20-short
