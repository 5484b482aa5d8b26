#!/usr/bin/env bash
# Latency tables of the three networks on a GPU, and plans by them: predicted against measured.
#     benchmarks/latency_gpu.sh measure OUTPUT    on the GPU; needs torch, torchvision, numpy, scipy, pydantic, cyclopts, rich
#     benchmarks/latency_gpu.sh plan OUTPUT       where ortools and fvcore are; `--force`, since the table is of another device
#     benchmarks/latency_gpu.sh time OUTPUT       on the GPU: prints predicted and measured
# OUTPUT is carried from one machine to the other. Stopped, `measure` continues.
set -euo pipefail
step=$1 output=$2
cd "$(dirname "$0")/.."
export PYTHONPATH=.
mkdir -p "$output"
for name in resnet50 mobilenet_v2 convnext_tiny; do
  for kind in "1 float32" "32 float32" "32 bfloat16"; do
    read -r batch dtype <<<"$kind"
    path=$output/$name-$batch-$dtype
    case $step in
      measure) python -m knapsack_prune latency-table --model $name --device cuda --batch "$batch" --dtype "$dtype" \
        --memory-format channels_last -o "$path.json" ;;
      plan) [ -f "$path.plan.json" ] || python -m knapsack_prune plan --model $name --importance random --latency-budget 0.5 \
        --latency-table "$path.json" --force -o "$path.plan.json" ;;
      time) python benchmarks/time_plan.py "$path.plan.json" | sed "s/^/$name batch $batch $dtype: /" ;;
    esac
  done
done
