#!/bin/bash
# An experiment per array task, on any node that sees this folder: sbatch cluster/slurm.sh, from the top of the project.
#SBATCH --job-name=deebert
#SBATCH --array=0-5
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=slurm-%A_%a.log
set -euo pipefail
tasks=(SST-2 MRPC RTE QNLI QQP MNLI)
task=${tasks[$SLURM_ARRAY_TASK_ID]}
project=$SLURM_SUBMIT_DIR
# DVC locks its folder, so each task has a clone, where a task that runs again finds what it has trained.
clone=${DEEBERT_RUNS:-$project/../deebert-runs}/$task
[ -d "$clone" ] || git clone --quiet "$project" "$clone"
cd "$clone" && git fetch --quiet origin HEAD && git reset --quiet --hard FETCH_HEAD
[ ! -f "$project/.dvc/config.local" ] || cp "$project/.dvc/config.local" .dvc/ # the remote, where it is not in git
PATH="$project/.venv/bin:$PATH"
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
# By srun, so that the signal before the time is up reaches the training, which saves its state; submit again to go on.
srun dvc exp run --name "$task-$SLURM_ARRAY_JOB_ID" --set-param dataset="$task"
dvc exp push origin "$task-$SLURM_ARRAY_JOB_ID"
