"""A real SLURM on one machine: its own daemons, two nodes with pretended GPUs and one without, all state in one folder.

By hand, as root: `python tests/slurm/cluster.py up [FOLDER]`, then sinfo, sbatch, sacct or `snakemake --profile slurm` as on any
cluster; `python tests/slurm/cluster.py down [FOLDER]` stops it. Needs Debian's slurmctld, slurmd, slurm-client, slurmdbd,
mariadb-server and munge.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import accounts
import daemons
from daemons import run, running, wait_for

PACKAGES = "slurmctld slurmd slurm-client slurmdbd mariadb-server munge"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", *accounts.PROGRAMS)
ETC = Path("/etc/slurm")
"""Where clients look without SLURM_CONF, which Snakemake's job step takes away from the srun that it starts."""

GPU_NODES, CPU_NODE = ("gn1", "gn2"), "cn1"
NUM_GPUS = 2
FIRST_PORT = 17101

NAME = "sftstudy"
CONF = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16917
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job starts again only when its old credential has expired: 120 s by default
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
# a node that was set down stays down until it is resumed
ReturnToService=1
SlurmdTimeout=15
MessageTimeout=10
KillWait=5
# Snakemake learns from squeue how a job ended; the profile asks for this much on any cluster
MinJobAge=300
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# memory is polled and enforced without cgroups
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,UsePss
NodeName=gn[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[17101-17102] CPUs=8 RealMemory=256000 Gres=gpu:2
NodeName=cn1 NodeHostname={host} NodeAddr=127.0.0.1 Port=17103 CPUs=16 RealMemory=256000
PartitionName=cpu Nodes=cn1 Default=YES MaxTime=1440 PriorityTier=1
PartitionName=gpu Nodes=gn[1-2] MaxTime=1440 PriorityTier=1
PartitionName=urgent Nodes=gn[1-2],cn1 MaxTime=60 PriorityTier=10 PreemptMode=OFF
"""
GRES = "NodeName=gn[1-2] Name=gpu File={folder}/gpu[0-1]\n"


def missing_programs() -> list[str]:
    """What of SLURM is not installed here; a cluster also needs root."""
    return [name for name in PROGRAMS if shutil.which(name) is None] + ([] if os.geteuid() == 0 else ["root"])


class Cluster:
    """A cluster whose configuration, state and logs lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def up(self) -> None:
        """Start whatever of it does not run, and wait until all nodes are idle. Raises RuntimeError that names the log if not."""
        self.start()
        wait_for(self._all_idle, f"nodes are not idle; see {self.folder}/*.log")

    def start(self) -> None:
        """Start whatever of it does not run. Raises RuntimeError that names the log if a daemon does not come."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self._configure()
        self._start_munge()
        accounts.up(self.folder, cluster=NAME)
        self.start_controller()
        for node in (*GPU_NODES, CPU_NODE):
            self.start_node(node)

    def start_controller(self) -> None:
        """Start slurmctld."""
        daemons.start(self.folder, "slurmctld", ["slurmctld"])

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        (self.folder / "spool" / node).mkdir(exist_ok=True)
        daemons.start(self.folder, node, ["slurmd", "-N", node])

    def stop(self, daemon: str, *, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to slurmctld, munged or a node's daemon, and wait for its end."""
        daemons.stop(self.folder, daemon, number=number)

    def down(self) -> None:
        """End all jobs and all daemons, and forget everything but the logs."""
        if running(self.folder, "slurmctld"):
            subprocess.run(["scancel", "--user", "root"], check=False, capture_output=True)
            wait_for(lambda: not run("squeue", "-h", "-t", "R,CG"), "jobs do not end", patience_s=20)
        for daemon in (*GPU_NODES, CPU_NODE, "slurmctld"):
            self.stop(daemon)
        accounts.down(self.folder)
        self.stop("munged")
        for name in ("slurm.conf", "gres.conf"):
            if (ETC / name).is_symlink():
                (ETC / name).unlink()
        for name in ("state", "spool"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _configure(self) -> None:
        facts = {"host": socket.gethostname().partition(".")[0], "folder": self.folder, "name": NAME}
        ETC.mkdir(exist_ok=True)
        for name, text in {"slurm.conf": CONF + accounts.OF_CLUSTER, "gres.conf": GRES}.items():
            (self.folder / name).write_text(text.format(**facts))
            if (ETC / name).exists() and not (ETC / name).is_symlink():
                raise RuntimeError(f"{ETC / name} is a real file: this machine belongs to a cluster, and none is made on it")
            (ETC / name).unlink(missing_ok=True)
            (ETC / name).symlink_to(self.folder / name)
        for number in range(NUM_GPUS):  # slurmd takes a character device for a GPU; no driver needs to stand behind it
            device = self.folder / f"gpu{number}"
            if not device.exists():
                os.mknod(device, 0o600 | 0o020000, os.makedev(240, number))

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        if not key.exists():
            key.write_bytes(os.urandom(128))
            key.chmod(0o400)
        if running(self.folder, "munged") is None:
            (self.folder / "munge.socket").unlink(missing_ok=True)
            files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
            files["seed-file"] = "munged.seed"
            subprocess.run(
                ["munged", "--force", *(f"--{option}={self.folder / name}" for option, name in files.items())], check=True
            )
            wait_for((self.folder / "munge.socket").exists, f"munged makes no socket; see {self.folder}/munged.log")

    def _all_idle(self) -> bool:
        states = run("sinfo", "-h", "-N", "-p", "urgent", "-o", "%t", check=False).split()
        return states == ["idle"] * (len(GPU_NODES) + 1)


def main() -> None:
    """`up` or `down`, and where."""
    action, *rest = sys.argv[1:] or ["help"]
    cluster = Cluster(Path(rest[0] if rest else "/tmp/sftstudy-slurm"))
    if action not in ("up", "down"):
        sys.exit(__doc__)
    if missing := missing_programs():
        sys.exit(f"error: not here: {', '.join(missing)}; `apt-get install {PACKAGES}`, as root")
    cluster.up() if action == "up" else cluster.down()


if __name__ == "__main__":
    main()
