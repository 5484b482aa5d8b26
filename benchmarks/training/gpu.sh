#!/usr/bin/env bash
# Everything about training that wants a GPU, with the plans that lie here, so that neither ortools nor fvcore is needed:
#     benchmarks/training/gpu.sh OUTPUT
# Accuracies on a GPU: benchmarks/accuracy/gpu.sh.
set -euo pipefail
output=$1
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
export PYTHONPATH="$root:$here"
results="$output/results"
mkdir -p "$results"

python "$here/step_cost.py" --network cifar_resnet56 --batch-size 512 --precision bf16 --compile --throughput --table "$results/step_cost_gpu.json"
python "$here/step_cost.py" --network resnet50 --batch-size 128 --precision bf16 --compile --table "$results/step_cost_gpu.json"
# Sharded (FSDP 2) on the one GPU there is: that it starts, trains and resumes there as it does on the CPU in the tests.
rm -rf "$output/sharded"
ACCELERATE_USE_FSDP=true FSDP_VERSION=2 python -m torch.distributed.run --nproc-per-node 1 -m knapsack_prune finetune "$here/plans/digits_resnet14-l1-0.35.json" \
  -o "$output/sharded" --epochs 2 --device cuda --ema 0

python "$here/latency.py" --networks resnet18 resnet50 mobilenet_v2 --table "$results/latency_gpu.md"
