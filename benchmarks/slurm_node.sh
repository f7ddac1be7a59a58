#!/usr/bin/env bash
# Start a SLURM of one node on this machine, as root and without systemd, for tests/faults/test_slurm.py:
#
#     apt-get install slurm-wlm munge
#     export SLURM_CONF=$(bash benchmarks/slurm_node.sh /tmp/slurm)
#
# Its daemons stay: `scontrol shutdown; kill $(cat /run/munge/munged.pid)` ends them. It says that it has 8 processors, whatever there are.
set -eu
folder=$1 host=$(hostname -s)
mkdir -p "$folder"/{state,spool} /run/munge /var/log/munge
chown munge: /run/munge /var/log/munge
munge -n >/dev/null 2>&1 || runuser -u munge -- /usr/sbin/munged >&2
cat >"$folder/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$folder/slurm.conf"
slurmctld >&2
slurmd >&2
for _ in $(seq 30); do
    [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] && break
    sleep 1
done
sinfo >&2
echo "$SLURM_CONF"
