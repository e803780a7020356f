#!/usr/bin/env bash
# A real Slurm on this machine, to try job scripts on: three emulated nodes in the partitions `batch`
# (cluster0, cluster1) and `booster` (booster0, with two GPUs that exist by name only).
#
#     jobscripts/slurm.sh start FOLDER     # as root, with Debian's packages slurm-wlm and munge
#     source FOLDER/env.sh                 # sbatch, srun, squeue ... now speak to it
#     jobscripts/slurm.sh stop FOLDER      # cancels what runs there and ends its daemons
#
# All of it lies in FOLDER, on ports that were free, beside whatever Slurm there may be.

set -euo pipefail
usage="usage: jobscripts/slurm.sh start|stop FOLDER"
command=${1:?$usage}
mkdir -p "${2:?$usage}"
folder=$(cd "$2" && pwd)
PATH=$PATH:/usr/sbin

give_up() {
    printf 'lcu: %s\n' "$@" >&2
    exit 1
}

write_configuration() {
    local host ports
    host=$(hostname -s)
    read -ra ports < <(python3 -c '
import socket
held = [socket.socket() for _ in range(4)]
for one in held: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))')
    # Both "nodes" of a partition share one /tmp, in which the second would find the first one's files: hence TmpFS.
    mkdir -p "$folder"/{state,spool,tmp}/ "$folder"/tmp/{cluster0,cluster1,booster0}
    for number in 0 1; do : >"$folder/gpu$number"; done
    echo "NodeName=booster0 Name=gpu File=$folder/gpu[0-1]" >"$folder/gres.conf"
    cat >"$folder/slurm.conf" <<CONF
ClusterName=lcu
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
TmpFS=$folder/tmp/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_min_interval=1000000
JobCompType=jobcomp/none
MpiDefault=pmix
ReturnToService=2
GresTypes=gpu
KillWait=10
NodeName=cluster0 NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[1]} CPUs=2
NodeName=cluster1 NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[2]} CPUs=2
NodeName=booster0 NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[3]} CPUs=2 Gres=gpu:2
PartitionName=batch Nodes=cluster[0-1] Default=YES MaxTime=60 State=UP
PartitionName=booster Nodes=booster0 MaxTime=60 State=UP
CONF
    cat >"$folder/env.sh" <<ENV
export SLURM_CONF=$folder/slurm.conf LCU_PLACE=debian
# Ranks on two "nodes" would believe that they share memory.
export OMPI_MCA_btl=tcp,self OMPI_MCA_btl_tcp_if_include=lo
# There may be more ranks than cores: one that waits lets the others work.
export OMPI_MCA_mpi_yield_when_idle=1
ENV
}

start() {
    local tool
    for tool in slurmctld slurmd munged; do
        command -v $tool >/dev/null || give_up "$tool is missing: apt-get install slurm-wlm munge"
    done
    [ "$(id -u)" = 0 ] || give_up "only root can start Slurm's daemons"
    [ ! -e "$folder/slurmctld.pid" ] || give_up "there is a Slurm in $folder already; stop it first"
    write_configuration
    export SLURM_CONF=$folder/slurm.conf
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --num-threads=2 \
        --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
    slurmctld
    for node in cluster0 cluster1 booster0; do slurmd -N $node; done
    for _ in {1..60}; do
        [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | sort -u | wc -l)" = 3 ] && sinfo && return
        sleep 0.5
    done
    tail -n 20 "$folder"/*.log >&2
    stop
    give_up "Slurm did not start; its logs are in $folder"
}

# Each daemon by the id that it wrote down.
stop() {
    local file pid
    export SLURM_CONF=$folder/slurm.conf
    if [ -e "$folder/slurmctld.pid" ]; then
        scancel --user=root 2>/dev/null || true
        for _ in {1..60}; do [ -z "$(squeue -h 2>/dev/null)" ] && break || sleep 0.5; done
    fi
    for file in "$folder"/{slurmd-*,slurmctld,munged}.pid; do
        [ -s "$file" ] || continue
        pid=$(<"$file")
        kill "$pid" 2>/dev/null || true
        for _ in {1..100}; do kill -0 "$pid" 2>/dev/null && sleep 0.1 || break; done
        rm -f "$file"
    done
}

case $command in start) start ;; stop) stop ;; *) give_up "$usage" ;; esac
