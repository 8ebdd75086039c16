#!/usr/bin/env bash
# Is a small embedder better for having been trained with thoughts? The same training with and without them.
#
#   LLM=Qwen/Qwen2.5-Coder-0.5B-Instruct EMBEDDER=sentence-transformers/all-MiniLM-L6-v2 \
#     bash runs/retriever.sh conala:snippet mbpp:function stdlib:function:stdlib/train
#
# Each argument is COLLECTION[:STYLE[:LEARNT[:COMMENT]]]: a BEIR folder, what the LLM is asked for about its
# queries (a style of `o1-model think`), the folder to learn from where that is another, and what it is asked for
# about its documents (`comment`) where they think, too: `conala:snippet::comment`. A collection without a style
# is learnt from without thoughts and is not measured (it needs DEV and TEST all the same, which are not learnt
# from). DEV chooses the weights of thoughts, TEST is measured once.
#
#   SEEDS="0 1 2"     trainings of each kind
#   SAMPLES=1         thoughts about a query of DEV and TEST, at most: 4 tries one, two and four
#   TRAIN=train DEV=dev TEST=test OUT=results/retriever
#   FLAGS=            more flags of `o1-model train`, such as "--bf16 --use_cpu" without a GPU
#
# Ask `o1-model calibrate` first whether the thoughts of this LLM gain anything on a collection, and leave out
# its style if not: on the standard library, training with thoughts that it refused was worse than without;
# with MiniLM, leaving refused ones out did not make it better than without, either (docs/log.md).
#
# Training queries that are near copies of DEV or TEST queries of any collection are left out, and so are those
# without a hard negative. OUT/KIND-SEED/COLLECTION.dev.json and .test.json are the calibration and what
# `o1-model confirm` measured; `benchmarks/thinking.py` makes tables of the latter. What is there already is not
# done again, so the same command goes on after a kill; COLLECTION.vectors may be deleted afterwards.
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
samples=${SAMPLES:-1}
settings="$LLM $EMBEDDER $train $dev $test ${FLAGS:-} $*"
[ "$samples" -eq 1 ] || settings+=" SAMPLES=$samples"
[ -f "$out/settings" ] || echo "$settings" > "$out/settings"
[ "$(cat "$out/settings")" = "$settings" ] || { echo "$out was made with other settings; choose another OUT" >&2; exit 4; }

think() {  # file, style, what about
  local file=$1 style=$2
  shift 2
  [ -f "$file" ] || o1-model think --model "$LLM" --style "$style" --dtype auto --out "$file" "$@" || [ $? -eq 3 ]
  [ -f "$file" ] || exit 3  # interrupted; with blank ones left out it is there
}
sampled=()
[ "$samples" -eq 1 ] || sampled=(--samples "$samples" --temperature 0.7 --seed 0)

examples=()
for argument in "$@"; do
  IFS=: read -r collection style learnt comment <<< "$argument"
  learnt=${learnt:-$collection}
  work=$out/$(basename "$collection")
  mkdir -p "$work"
  if [ -n "$style" ]; then
    think "$work/train.jsonl" "$style" --queries "$learnt" --split "$train"
    think "$work/dev.jsonl" "$style" --queries "$collection" --split "$dev" "${sampled[@]}"
    think "$work/test.jsonl" "$style" --queries "$collection" --split "$test" "${sampled[@]}"
    [ -z "$comment" ] || think "$work/documents.jsonl" "$comment" --corpus "$collection"
    last=$work/elected.jsonl  # one thought a query: there is nothing to choose
    [ -f "$last" ] || o1-vote elect --thoughts "$work/train.jsonl" --queries "$learnt" --qrels "$learnt" \
      --corpus "$learnt" --split "$train" --member bm25 --measure thought --no-abstain --no-controls --out "$last"
  else
    [ -z "$comment" ] || { echo "$argument: a collection without a style is not measured; leave out $comment" >&2; exit 2; }
    last=$work/judged.jsonl  # its negatives are chosen below
    [ -f "$last" ] || o1-vote mine --queries "$learnt" --qrels "$learnt" --corpus "$learnt" --split "$train" \
      --member bm25 --split-identifiers --count 1 --out "$last" --reasons "$work/judged.reasons.jsonl"
  fi
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
      IFS=: read -r collection style _ comment <<< "$argument"
      work=$out/$(basename "$collection")
      own=$model/$(basename "$collection")
      if [ -z "$style" ] || [ -f "$own.test.json" ]; then continue; fi
      known=(--model "$model/model" --collection "$collection" --document-vectors "$own.vectors")
      about=()
      [ -z "$comment" ] || about=(--document-thoughts "$work/documents.jsonl")
      [ -d "$own.vectors" ] || o1-model embed --model "$model/model" --corpus "$collection" --out "$own.vectors"
      [ -f "$own.dev.json" ] || o1-model calibrate "${known[@]}" --thinker "$work/dev.jsonl" --split "$dev" \
        --samples "$samples" "${about[@]}" --out "$own.dev.json"
      # confirm refuses documents' thoughts whose weight is 0
      if grep -q '"document_weight": *0\.0\b' "$own.dev.json"; then about=(); fi
      o1-model confirm "${known[@]}" --calibration "$own.dev.json" \
        --thinker "$work/test.jsonl" --split "$test" "${about[@]}" --out "$own.test.json"
    done
  done
done
