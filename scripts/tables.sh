#!/usr/bin/env bash
# One of the measured tables, outputs/tables/NAME.*: weight, filter, homes, lenet or vit, or a search for defaults,
# tune_weight or tune_filter. Started again it does what is missing. Further words go to every run, such as data_dir=DIR.
#
#     scripts/tables.sh weight [key=value ...]
set -euo pipefail
name=${1:?which table: weight, filter, homes, lenet, vit, tune_weight or tune_filter}
shift
case $name in
    tune_*) experiment=$name rows=method,options ;;
    *) experiment=table_$name rows=method ;;
esac
pruner experiment="$experiment" threads=1 output_dir=outputs/"$experiment" "$@"
pruner-compare outputs/"$experiment" --rows "$rows" --output outputs/tables/"${experiment//_/-}"
