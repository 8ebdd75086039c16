#!/usr/bin/env bash
# Train and measure ReasonEmbed (arXiv 2510.08252) as its public code does, with runs/paper_reasonembed.yaml.
#
#   EXAMPLES=remixer bash runs/paper_reasonembed.sh           8 GPUs of one node: 1,024 documents a step
#   GPUS=1 EXAMPLES=remixer bash runs/paper_reasonembed.sh    one GPU: the same through the gradient cache
#
# What stands behind goes to `o1-model train` and wins over the file. EXAMPLES: the folder of ReMixer's data, a file of
# FlagEmbedding's rows for each dataset, or of Example records, each with its reasoning_query. MODEL: where to start,
# a model tuned on MS MARCO. COLLECTIONS: BEIR folders of BRIGHT or R2MED to measure on afterwards, at the 512 tokens
# of the training (the paper evaluates with 8,192).
#
# Not run: no GPU and no 8B model were at hand. tests/model/test_model_runs.py parses its commands and trains
# a tiny model with its settings.
set -euo pipefail
here=$(dirname "$0")
gpus=${GPUS:-8}
model=${MODEL:-hanhainebula/qwen3-8b-ft-msmarco}
examples=${EXAMPLES:?set EXAMPLES to a folder of JSONL files, one for each dataset}
out=${OUT:-results/paper_reasonembed}

scale=()
if [ "$gpus" -lt 8 ]; then
  # 1,024 documents a step on any number of GPUs; a row's batch_size is that of one GPU of 8
  scale=(--per_device_train_batch_size $((64 / gpus)) --grad_cache --batch_size_scale $((8 / gpus)))
fi
torchrun --nproc_per_node "$gpus" -m o1_model train "$here/paper_reasonembed.yaml" \
  --model_name_or_path "$model" --train_data "$examples" --output_dir "$out/model" "${scale[@]}" "$@"

for collection in ${COLLECTIONS:-}; do
  vectors=$out/$(basename "$collection")
  mkdir -p "$vectors"
  o1-model embed --model "$out/model" --corpus "$collection" --out "$vectors/documents"
  o1-model embed --model "$out/model" --queries "$collection" --split test --out "$vectors/queries"
  [ -d "$vectors/index" ] || o1-index build --vectors "$vectors/documents" --out "$vectors/index"
  o1-index search --index "$vectors/index" --vectors "$vectors/queries" --k 1000 --out "$vectors/run.trec"
  o1-bench score --qrels "$collection" --split test --run "$vectors/run.trec" --result "$vectors/result" --name ReasonEmbed
done
