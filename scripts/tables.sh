#!/usr/bin/env bash
# One of the measured tables, outputs/tables/NAME.*: weight, filter, half, homes, kernel, lenet or vit, or a search
# for defaults, tune_weight, tune_filter, tune_kernel or tune_block. Started again it does what is missing. Further words
# go to every run, such as data_dir=DIR.
#
#     scripts/tables.sh weight [key=value ...]
set -euo pipefail
name=${1:?which table: weight, filter, half, homes, kernel, lenet, vit, tune_weight, tune_filter, tune_kernel or tune_block}
shift
experiment=table_$name
case $name in
    tune_*) experiment=$name layout=(--rows method,options) ;;
    filter)
        layout=(--rows method,scope,options --baseline gmp)
        picture=0.9-layers pictured=("${layout[@]}" --filter scope=global)
        ;;
    half) layout=(--rows method,options --baseline gmp) ;;
    lenet) layout=(--cols quant_bits --baseline gmp) ;;
    weight) # the curves, without random, which is so far below that the others would be one line
        layout=(--baseline gmp)
        picture=sparsity pictured=("${layout[@]}" --filter method=smart,dtp,dpp,spartan,gmp,pdp,magnitude)
        ;;
    *) layout=(--baseline gmp) ;;
esac
table=outputs/tables/${experiment//_/-}
pruner experiment="$experiment" threads=1 output_dir=outputs/"$experiment" "$@"
pruner-compare outputs/"$experiment" "${layout[@]}" --output "$table" --html "$table.html"
if [ "${picture:-}" ]; then
    pruner-compare outputs/"$experiment" "${pictured[@]}" --pictures outputs/"$experiment"/pictures >/dev/null
    cp outputs/"$experiment"/pictures/*-"$picture".svg "$table.svg"
fi
