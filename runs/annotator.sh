#!/usr/bin/env bash
# Teach a small annotator what a large one wrote, with TRL's SFT, and measure how well the two agree.
#
#   CHAT=chat.jsonl MODEL=Qwen/Qwen3-8B QUERIES=queries.jsonl CORPUS=corpus.jsonl CANDIDATES=run.trec \
#     bash runs/annotator.sh [flags of `trl sft`, which win over runs/annotator.yaml]
#
# CHAT: what `o1-synth remix annotate --distill` wrote with the large annotator; the other three: what it was
# given. MODEL: a folder or an id of the hub, with a chat template. On one GPU a LoRA adapter is enough, and is
# merged: --use_peft --lora_target_modules all-linear --learning_rate 1e-4. Several GPUs: --num_processes 8.
# Needs o1-synth[transformers] and trl>=1.16 (and peft for LoRA) in one environment.
#
#   HELD_OUT=0.1       share of the queries that is measured on and never learnt from
#   ANNOTATE=...       flags of `o1-synth remix annotate` for the small one; --template as for the large one
#   ENGINE=vllm        let vLLM run the small one (default transformers: on the CPU, for tiny models)
#   OUT=results/annotator
#
# OUT gets model/ and agreement.json. The same command goes on after a kill; another model, flags or files
# need another OUT. The small one annotates greedily, one draw a pair: before and after.
set -euo pipefail
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
for name in CHAT MODEL QUERIES CORPUS CANDIDATES; do
  [ -n "${!name:-}" ] || { echo "set $name" >&2; usage; }
done
here=$(dirname "$0")
out=${OUT:-results/annotator}
read -ra annotate <<< "${ANNOTATE:-}"

python "$here/annotator.py" split --chat "$CHAT" --queries "$QUERIES" --candidates "$CANDIDATES" --out "$out" \
  --held-out "${HELD_OUT:-0.1}" --recipe "$MODEL $* ${ANNOTATE:-}"

score_held_out() {  # name, model
  o1-synth remix annotate "--${ENGINE:-transformers}" "$2" --queries "$out/heldout/queries.jsonl" --corpus "$CORPUS" \
    --candidates "$out/heldout/run.trec" --out "$out/heldout/$1.jsonl" --distill "$out/heldout/$1.chat.jsonl" \
    --temperature 0 --redraws 0 ${annotate[@]+"${annotate[@]}"} ||
    [ $? -eq 3 ]  # pairs without a score are a part of what is measured
}

score_held_out before "$MODEL"
if [ ! -d "$out/model" ]; then
  resume=()
  mkdir -p "$out/training"
  newest=$(find "$out/training" -maxdepth 1 -name 'checkpoint-*' | sort -V | tail -n 1)
  [ -z "$newest" ] || resume=(--resume_from_checkpoint "$newest")
  trl sft --config "$here/annotator.yaml" --model_name_or_path "$MODEL" --dataset_name "$out/data" \
    --output_dir "$out/training" ${resume[@]+"${resume[@]}"} "$@"
  trained=$out/training
  if [ -f "$trained/adapter_config.json" ]; then
    rm -rf "$out/merged"
    python "$here/annotator.py" merge "$trained" "$out/merged"
    trained=$out/merged
  fi
  mv "$trained" "$out/model"  # whole or not there
fi
score_held_out after "$out/model"
python "$here/annotator.py" agree --chat "$CHAT" --candidates "$out/heldout/run.trec" --out "$out/agreement.json" \
  --small before "$out/heldout/before.chat.jsonl" --small after "$out/heldout/after.chat.jsonl"
