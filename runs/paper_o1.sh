#!/usr/bin/env bash
# Train and measure O1 Embedder (arXiv 2502.07555) as its public code does, with runs/paper_o1.yaml.
#
#   EXAMPLES=examples.jsonl bash runs/paper_o1.sh           8 GPUs of one node: 8 queries x 16 documents on each
#   GPUS=1 EXAMPLES=examples.jsonl bash runs/paper_o1.sh    one GPU: the same 64 x 16 through the gradient cache
#
# What stands behind goes to `o1-model train` and wins over the file. EXAMPLES: MS MARCO's training queries with
# hard negatives, scores of a teacher and a thought elected from three: the authors' own file in FlagEmbedding's
# rows, or Example records (o1-synth think; o1-vote elect --measure thought --rule majority --no-abstain; o1-vote
# mine), with `--teacher none` behind where they have no teacher_scores. COLLECTIONS: BEIR folders to measure on
# afterwards, as the paper does, with three thoughts a query.
#
# Not run: no GPU and no 8B model were at hand. tests/model/test_model_runs.py parses its commands and trains
# a tiny model with its settings.
set -euo pipefail
here=$(dirname "$0")
gpus=${GPUS:-8}
model=${MODEL:-Qwen/Qwen2.5-7B}
examples=${EXAMPLES:?set EXAMPLES to a JSONL file of Example records}
out=${OUT:-results/paper_o1}

scale=()
if [ "$gpus" -lt 8 ]; then
  # 64 queries a step on any number of GPUs: every query keeps its 1,023 negatives
  scale=(--per_device_train_batch_size $((64 / gpus)) --grad_cache)
fi
torchrun --nproc_per_node "$gpus" -m o1_model train "$here/paper_o1.yaml" \
  --model_name_or_path "$model" --train_data "$examples" --output_dir "$out/model" "${scale[@]}" "$@"

for collection in ${COLLECTIONS:-}; do
  vectors=$out/$(basename "$collection")
  mkdir -p "$vectors"
  o1-model embed --model "$out/model" --corpus "$collection" --out "$vectors/documents"
  o1-model embed --model "$out/model" --queries "$collection" --split test --think --samples 3 --max-tokens 128 \
    --temperature 0.1 --top-p 0.9 --out "$vectors/queries"
  [ -d "$vectors/index" ] || o1-index build --vectors "$vectors/documents" --out "$vectors/index"
  o1-index search --index "$vectors/index" --vectors "$vectors/queries" --k 1000 --out "$vectors/run.trec"
  o1-bench score --qrels "$collection" --split test --run "$vectors/run.trec" --result "$vectors/result" --name "O1 Embedder"
done
