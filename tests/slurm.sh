#!/usr/bin/env bash
# A Slurm cluster of two nodes on this machine, from Debian's packages, for as long as a command runs:
#
#   tests/slurm.sh sinfo
#
# Needs no systemd and no cgroups. Where the packages are missing they are installed, which takes root and apt-get;
# where that cannot be done the exit code is 77.
set -euo pipefail

for daemon in munged slurmctld slurmd sbatch; do
    PATH=$PATH:/usr/sbin:/sbin type $daemon > /dev/null 2>&1 && continue
    echo "slurm.sh: installing slurmctld slurmd slurm-client munge …" >&2
    install="apt-get install -qq --yes --no-install-recommends slurmctld slurmd slurm-client munge"
    log=$(mktemp)
    if ! { [ "$(id -u)" = 0 ] && type apt-get && { $install || { apt-get update -qq && $install; }; }; } \
        > "$log" 2>&1 < /dev/null; then
        tail -3 "$log" >&2
        echo "slurm.sh: there is no Slurm here, and it cannot be installed (root and apt-get could)" >&2
        exit 77
    fi
    break
done

export PATH=$PATH:/usr/sbin:/sbin
dir=$(mktemp -d /tmp/slurm.XXXXXX) # short: the path of a socket may have 107 characters
export SLURM_CONF=$dir/slurm.conf
mkdir "$dir"/{state,spool.n1,spool.n2}
port=$((20000 + RANDOM % 10000))
user=$(id -un) host=$(hostname -s)

cat > "$SLURM_CONF" << END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# a job that is put back into the queue may start again when its credential has expired: 2 minutes by default
AuthInfo=socket=$dir/munge.socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmctldPidFile=$dir/slurmctld.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdSpoolDir=$dir/spool.%n
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmdLogFile=$dir/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=1
PartitionName=test Nodes=n[1-2] Default=YES MaxTime=INFINITE
END

stop() {
    scancel --user "$user" 2> /dev/null || true
    for name in slurmd.n1 slurmd.n2 slurmctld munged; do
        pid=$(cat "$dir/$name.pid" 2> /dev/null) || continue
        kill "$pid" || continue
        while kill -0 "$pid" 2> /dev/null; do sleep 0.1; done
    done
    rm -rf "$dir"
}
trap stop EXIT

head -c 128 /dev/urandom > "$dir/munge.key"
chmod 600 "$dir/munge.key"
munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munged.seed"
slurmctld
slurmd -N n1
slurmd -N n2
for _ in $(seq 60); do
    [ "$(sinfo --noheader --states=idle --Format=nodes 2> /dev/null | tr -d ' ')" = 2 ] && break
    sleep 0.5
done
if [ "$(sinfo --noheader --states=idle --Format=nodes | tr -d ' ')" != 2 ]; then
    sinfo >&2
    tail -n 20 "$dir"/*.log >&2
    echo "slurm.sh: the cluster did not start" >&2
    exit 1
fi
"$@"
