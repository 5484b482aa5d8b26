#!/usr/bin/env bash
# KESI and its controls with ResNet-56 on CIFAR-10 at the paper's point, then the paper's widths against the knapsack's:
#     benchmarks/training/gpu_kesi.sh CIFAR10_FOLDER RESNET56_CHECKPOINT OUTPUT [EPOCHS]
# Plans are made on the way by `exact`, which needs SciPy but neither ortools nor fvcore; without fvcore, slim networks'
# outputs are checked and their FLOPs are not recounted. 27 times EPOCHS passes over the data for each of three seeds, and
# 12 times for the second table; stopped, it continues where it was when called again.
set -euo pipefail
data=$1 checkpoint=$2 output=$3 epochs=${4:-8}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
export PYTHONPATH="$root:$here"

common=(--data "$data" --network cifar_resnet56 --checkpoint "$checkpoint" --importance taylor --adapt-epochs 20
  --epochs "$epochs" --device cuda --precision bf16 --compile)
python "$here/kesi_controls.py" "${common[@]}" --table "$output/kesi_controls_resnet56" -o "$output/controls"
python "$here/kesi_controls.py" "${common[@]}" --budget by-hand --methods iterative-cycle ensemble hand-cycle hand-ensemble \
  --table "$output/kesi_schedule_resnet56" -o "$output/schedule"
