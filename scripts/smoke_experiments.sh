#!/usr/bin/env bash
# One cell of each of the experiments that the tests try on a smaller network, with the network that is theirs: ResNet-50
# and ViT-B/16, without their weights, on twenty made-up images. A few minutes on two cores; further words go to every run.
set -euo pipefail
smoke=(recipe=smoke recipe.batch_size=8 seed=0 output_dir=outputs/smoke
       dataset=synthetic dataset.image_size=32 dataset.train_size=20 dataset.test_size=8)
pruner experiment=spartan_imagenet "${smoke[@]}" method=spartan sparsity=0.9 "$@"
pruner experiment=spartan_vit_imagenet "${smoke[@]}" model.weights=null method=spartan block.shape=[32,32] "$@"
pruner experiment=smart_nm_vit "${smoke[@]}" model.weights=null method=smart nm.n=2 nm.m=4 "$@"
