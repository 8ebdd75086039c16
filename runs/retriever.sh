#!/usr/bin/env bash
# Is a small embedder better for having been trained with thoughts? The same training with and without them.
#
#   LLM=Qwen/Qwen2.5-Coder-0.5B-Instruct EMBEDDER=sentence-transformers/all-MiniLM-L6-v2 \
#     bash runs/retriever.sh conala:snippet mbpp:function stdlib:function:stdlib/train
#
# Each argument is a BEIR folder, what the LLM is asked for about its queries (a style of `o1-model think`), and
# the folder to learn from where that is another. DEV chooses the weight of thoughts, TEST is measured once.
#
#   SEEDS="0 1 2"     trainings of each kind
#   TRAIN=train DEV=dev TEST=test OUT=results/retriever
#   FLAGS=            more flags of `o1-model train`, such as "--bf16 --use_cpu" without a GPU
#
# Ask `o1-model calibrate` first whether the thoughts of this LLM gain anything on a collection: on the
# standard library, training with thoughts that it refused was worse than without (docs/log.md).
#
# Training queries that are near copies of DEV or TEST queries of any collection are left out, and so are those
# without a hard negative. OUT/KIND-SEED/COLLECTION.dev.json and .test.json are the calibration and what
# `o1-model confirm` measured; `benchmarks/thinking.py` makes tables of the latter. What is there already is not
# done again, so the same command goes on after a kill.
set -euo pipefail
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
for name in LLM EMBEDDER; do
  [ -n "${!name:-}" ] || { echo "set $name" >&2; usage; }
done
[ $# -gt 0 ] || { echo "name collections" >&2; usage; }
here=$(dirname "$0")
out=${OUT:-results/retriever} train=${TRAIN:-train} dev=${DEV:-dev} test=${TEST:-test}
read -ra flags <<< "${FLAGS:-}"
mkdir -p "$out"
settings="$LLM $EMBEDDER $train $dev $test ${FLAGS:-} $*"
[ -f "$out/settings" ] || echo "$settings" > "$out/settings"
[ "$(cat "$out/settings")" = "$settings" ] || { echo "$out was made with other settings; choose another OUT" >&2; exit 4; }

think() {  # collection, split, style, file
  [ -f "$4" ] || o1-model think --model "$LLM" --style "$3" --queries "$1" --split "$2" --dtype auto --out "$4" \
    || [ $? -eq 3 ]
  [ -f "$4" ] || exit 3  # interrupted; with blank ones left out it is there
}

examples=()
for argument in "$@"; do
  IFS=: read -r collection style learnt <<< "$argument"
  learnt=${learnt:-$collection}
  work=$out/$(basename "$collection")
  mkdir -p "$work"
  think "$learnt" "$train" "$style" "$work/train.jsonl"
  think "$collection" "$dev" "$style" "$work/dev.jsonl"
  think "$collection" "$test" "$style" "$work/test.jsonl"
  last=$work/elected.jsonl  # one thought a query: there is nothing to choose
  [ -f "$last" ] || o1-vote elect --thoughts "$work/train.jsonl" --queries "$learnt" --qrels "$learnt" \
    --corpus "$learnt" --split "$train" --member bm25 --measure thought --no-abstain --no-controls --out "$last"
  for other in "$@"; do
    for split in "$dev" "$test"; do
      left=$work/without-$(basename "${other%%:*}")-$split.jsonl
      [ -f "$left" ] || o1-vote decontaminate "$last" --type example --test-queries "${other%%:*}" --split "$split" \
        --out "$left" --reasons "${left%.jsonl}.reasons.jsonl"
      last=$left
    done
  done
  [ -f "$work/mined.jsonl" ] || o1-vote mine --examples "$last" --corpus "$learnt" --member bm25 --split-identifiers --count 1 \
    --out "$work/mined.jsonl" --reasons "$work/mined.reasons.jsonl"
  examples+=("$(basename "$collection")=$work/mined.jsonl")
done

for seed in ${SEEDS:-0 1 2}; do
  for kind in thoughts plain; do
    model=$out/$kind-$seed
    terms=()
    if [ $kind = plain ]; then  # v_q alone
      terms=(--embed_weight 1 --thought_weight 0 --mixture_weight 0 --distil_weight 0 --distil_from thought)
    fi
    # its card is written last
    [ -f "$model/model/README.md" ] || o1-model train "$here/retriever.yaml" --model_name_or_path "$EMBEDDER" \
      --train_data "${examples[@]}" --seed "$seed" --output_dir "$model/model" "${terms[@]}" "${flags[@]}"
    for argument in "$@"; do
      collection=${argument%%:*}
      name=$(basename "$collection")
      [ -f "$model/$name.dev.json" ] || o1-model calibrate --model "$model/model" --thinker "$out/$name/dev.jsonl" \
        --collection "$collection" --split "$dev" --out "$model/$name.dev.json"
      [ -f "$model/$name.test.json" ] || o1-model confirm --calibration "$model/$name.dev.json" \
        --model "$model/model" --thinker "$out/$name/test.jsonl" --collection "$collection" --split "$test" \
        --out "$model/$name.test.json"
    done
  done
done
