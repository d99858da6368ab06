#!/bin/bash
# One experiment per array task, results in this project: sbatch --array=2,5 cluster/slurm.sh -S model=roberta-base
#SBATCH --job-name=deebert
#SBATCH --array=0-5
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.log
set -euo pipefail
tasks=(SST-2 MRPC RTE QNLI QQP MNLI)
task=${tasks[$SLURM_ARRAY_TASK_ID]}; name=$task-$SLURM_ARRAY_JOB_ID
cd "$SLURM_SUBMIT_DIR"; until [ -d .dvc ] || [ "$PWD" = / ]; do cd ..; done
project=$PWD; top=$(git rev-parse --show-toplevel); below=$(git rev-parse --show-prefix) # maybe of a larger repository
export PATH="$project/.venv/bin:$PATH" OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
export DEEBERT_CHECKPOINTS=$project/.cache # of all clones: whichever job goes on, and `make checkpoints` has them all
# DVC runs one experiment at a time in a folder, so each has a clone of the last commit; they share the project's cache.
clone=$project/.cache/slurm/$name
rm -rf "$clone"; git clone --quiet "$top" "$clone"; cd "$clone/$below"
dvc cache dir --local "$(dvc --cd "$project" cache dir)"
set -m # DVC and its stage as one process group, to signal both: DVC alone, as SLURM would, takes no notice
dvc exp run --name "$name" --set-param dataset="$task" "$@" &
set +m # or a suspended job would look like an ended one
trap 'kill -INT -- -$!' TERM # as Ctrl-C: the training saves its state
wait $! || wait $!
dvc exp push --force --no-cache origin "$name"
rm -rf "$clone"
