#!/usr/bin/env bash
# A thinker that is rewarded for what retrieval gains: rounds of sampling, election and cloning, then DPO or GRPO.
#
#   MODEL=Qwen/Qwen2.5-Coder-0.5B-Instruct EMBEDDER=sentence-transformers/all-MiniLM-L6-v2 STYLE=snippet \
#     COLLECTION=mycode bash runs/thinker.sh [flags of training, such as --use-cpu --batch 4]
#
# COLLECTION: a BEIR folder with judgements for TRAIN (learnt from) and DEV (measured on), never your test split.
# Needs o1-model and trl>=1.16 in one environment. On several GPUs set LAUNCH="accelerate launch --num_processes 8".
#
#   ROUNDS=1          rounds of expert iteration: sample, elect, clone, merge
#   THEN=prefer       after them: prefer (DPO on the last round's pairs), reward (GRPO), or none
#   SAMPLES=8         thoughts a query; WEIGHT=0.3 of a thought in the mixture; QUERIES= at most so many to learn from
#   TRAIN=train DEV=dev OUT=results/thinker
#
# OUT/before.json and OUT/after.json are what `o1-model calibrate` finds on DEV, with its controls: only their
# difference is a result. What is there already is not done again, so the same command goes on after a kill.
set -euo pipefail
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
for name in MODEL EMBEDDER STYLE COLLECTION; do
  [ -n "${!name:-}" ] || { echo "set $name" >&2; usage; }
done
here=$(dirname "$0")
out=${OUT:-results/thinker}
then=${THEN:-prefer}
read -ra launch <<< "${LAUNCH:-python}"
case $then in prefer|reward|none) ;; *) echo "THEN is prefer, reward or none" >&2; usage ;; esac
mkdir -p "$out"
settings="$MODEL $EMBEDDER $STYLE $COLLECTION ${TRAIN:-train} ${DEV:-dev} ${ROUNDS:-1} $then ${SAMPLES:-8} ${WEIGHT:-0.3} ${QUERIES:-} $*"
[ -f "$out/settings" ] || echo "$settings" > "$out/settings"
[ "$(cat "$out/settings")" = "$settings" ] || { echo "$out was made with other settings; choose another OUT" >&2; exit 4; }
judging=(--embedder "$EMBEDDER" --collection "$COLLECTION" --split "${TRAIN:-train}" --style "$STYLE"
  --weight "${WEIGHT:-0.3}" ${QUERIES:+--max-queries "$QUERIES"})

measure() {  # model, file
  [ -f "$2" ] || o1-model calibrate --model "$EMBEDDER" --thinker "$1" --style "$STYLE" \
    --collection "$COLLECTION" --split "${DEV:-dev}" --out "$2"
}

measure "$MODEL" "$out/before.json"
model=$MODEL
for round in $(seq 1 "${ROUNDS:-1}"); do
  here_out=$out/round$round
  mkdir -p "$here_out"
  o1-model think --model "$model" --style "$STYLE" --samples "${SAMPLES:-8}" --temperature 1 --seed "$round" \
    --queries "$COLLECTION" --split "${TRAIN:-train}" --out "$here_out/thoughts.jsonl" || [ $? -eq 3 ]
  [ -f "$here_out/thoughts.jsonl" ] || exit 3  # interrupted; with blank ones left out it is there
  [ -d "$here_out/elected" ] || python "$here/thinker.py" elect --model "$model" "${judging[@]}" \
    --thoughts "$here_out/thoughts.jsonl" --out "$here_out/elected"
  [ -d "$here_out/adapter" ] || "${launch[@]}" "$here/thinker.py" clone "$here_out/elected" --model "$model" \
    --out "$here_out/adapter" "$@"
  [ -d "$here_out/model" ] || python "$here/thinker.py" merge "$here_out/adapter" --out "$here_out/model"
  model=$here_out/model
done
if [ "$then" = prefer ]; then
  [ -d "$out/adapter" ] || "${launch[@]}" "$here/thinker.py" prefer "$here_out/elected" --model "$model" \
    --out "$out/adapter" "$@"
elif [ "$then" = reward ]; then
  [ -d "$out/adapter" ] || "${launch[@]}" "$here/thinker.py" reward --model "$model" "${judging[@]}" \
    --samples "${SAMPLES:-8}" --out "$out/adapter" "$@"
fi
if [ "$then" != none ]; then
  [ -d "$out/model" ] || python "$here/thinker.py" merge "$out/adapter" --out "$out/model"
  model=$out/model
fi
measure "$model" "$out/after.json"
