#!/usr/bin/env bash
# Accuracy at equal counted FLOPs on a GPU: ResNet-56, VGG-16-BN and MobileNetV2 on the full set.
#     benchmarks/accuracy/gpu.sh parents CIFAR10_FOLDER RESNET56_CHECKPOINT OUTPUT    on the GPU
#     benchmarks/accuracy/gpu.sh plans CIFAR10_FOLDER RESNET56_CHECKPOINT OUTPUT      where ortools, fvcore and torch-pruning are
#     benchmarks/accuracy/gpu.sh train CIFAR10_FOLDER RESNET56_CHECKPOINT OUTPUT      on the GPU
# OUTPUT is carried from one machine to the other. Stopped, each step continues where it was when called again.
set -euo pipefail
step=$1 data=$2 checkpoint=$3 output=$4
cd "$(dirname "$0")/../.."
export PYTHONPATH=.
for name in resnet56 vgg16 mobilenetv2; do
  given=(benchmarks/accuracy/$name.toml --data "$data" -o "$output/$name" --table "$output/results/$name")
  [ $name = resnet56 ] && given+=(--checkpoint "$checkpoint")
  case $step in
    parents) python -m benchmarks.accuracy "${given[@]}" --device cuda --parent-only ;;
    plans) python -m benchmarks.accuracy "${given[@]}" --plans ;;
    train) python -m benchmarks.accuracy "${given[@]}" --device cuda ;;
  esac
done
