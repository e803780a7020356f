#!/bin/bash
# The stages as a chain of jobs: jobscripts/submit.sh CONFIG [OPTIONS OF SBATCH, for all of them]
# It waits for the end (nohup keeps it alive after a logout) and submits again what the wall time cut off: exit code
# 3, no other. Stopped and started again it goes on too: what is whole is not made twice.
set -euo pipefail
config=$(realpath -e "${1:?usage: jobscripts/submit.sh CONFIG [OPTIONS OF SBATCH]}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
stages=(composite sample train classify assess) failed=0
while [ ${#stages[@]} -gt 0 ]; do
    jobs=() after=()
    for stage in "${stages[@]}"; do
        job=$(sbatch --parsable --kill-on-invalid-dep=yes "${after[@]}" "${@:2}" "jobscripts/$stage.sbatch" "$config")
        jobs+=("${job%%;*}") after=(--dependency="afterok:${job%%;*}")
    done
    echo "submitted: ${stages[*]} as jobs ${jobs[*]}"
    for job in "${jobs[@]}"; do
        while said=$(scontrol --oneliner show job "$job") &&
            [[ $said =~ JobState=(PENDING|CONFIGURING|RUNNING|COMPLETING|SUSPENDED|REQUEUED) ]]; do sleep 5; done
        [[ $said =~ JobState=([A-Z_]+).*\ ExitCode=([0-9]+:[0-9]+) ]]
        echo "${stages[0]}: job $job ${BASH_REMATCH[1]}, exit code ${BASH_REMATCH[2]}"
        case "${BASH_REMATCH[*]:1}" in "COMPLETED 0:0") stages=("${stages[@]:1}") ;; "FAILED 3:0") break ;;
            "FAILED 1:0") stages=("${stages[@]:1}") failed=1; break ;; # some units failed; the next stage sees the rest
            *) echo "lcu: see lcu-${stages[0]}-$job.out; it is not submitted again" >&2; exit 1 ;; esac
    done
done
echo "complete, $([ $failed = 0 ] && echo "nothing failed" || echo "but something failed: see the logs")"
exit $failed
