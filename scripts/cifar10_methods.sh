#!/usr/bin/env bash
# The tables outputs/tables/cifar10-resnet20-methods.*: the methods on ResNet-20 and CIFAR-10 with the short recipe (10 dense,
# 5 prune, 2 finetune epochs), one seed: single weights, filters at two budgets, and each paper's own setting. About four
# hours on two cores; started again, it does what is missing. Further key=value words go to every run, such as data_dir=DIR.
set -euo pipefail
common=(dataset=cifar10 model=resnet20 recipe=short threads=1 output_dir=outputs)
all=dtp,dpp,dsa,smart,spartan,gmp,magnitude,random
pruner -m "${common[@]}" method="$all" sparsity=0.95 "$@"
pruner -m "${common[@]}" method="$all" granularity=filter budget=macs sparsity=0.5,0.9 "$@"
pruner -m "${common[@]}" method=dpp,gmp,magnitude scope=row sparsity=0.9 "$@"
pruner -m "${common[@]}" method=dpp,gmp,magnitude granularity=kernel sparsity=0.9 "$@"
pruner -m "${common[@]}" method=smart,gmp,magnitude granularity=block block.shape=[16,8] sparsity=0.5 "$@"
pruner -m "${common[@]}" method=smart,gmp,magnitude granularity=nm "$@"
pruner-compare outputs/cifar10-resnet20 --output outputs/tables/cifar10-resnet20-methods
