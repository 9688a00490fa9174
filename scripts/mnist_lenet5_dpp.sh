#!/usr/bin/env bash
# outputs/tables/mnist-lenet5-dpp.*: LeNet-5 on MNIST with DPP, 7.5% of the weights of every row at three bits each; one seed,
# a quarter of an hour on one core. Further key=value words go to the run, such as data_dir=DIR.
set -euo pipefail
pruner dataset=mnist model=lenet5 method=dpp scope=row quantization=int3 sparsity=0.925 recipe=quick \
    recipe.finetune_epochs=12 threads=1 "$@"
pruner-compare outputs/mnist-lenet5 --output outputs/tables/mnist-lenet5-dpp
