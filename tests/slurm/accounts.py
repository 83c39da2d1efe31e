"""The test cluster's accounting, as sites have it: slurmdbd over a MariaDB of its own, one account, and the jobs' comments kept."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from daemons import run, start, stop, wait_for

PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db")
ACCOUNT = "lab"

CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=16919
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StoragePort=13316
StorageUser=root
StorageLoc=accounts
"""

OF_CLUSTER = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=16919
# without it clients look for munge where the system has its own
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
"""
"""What slurm.conf says of it."""


def up(folder: Path, *, cluster: str) -> None:
    """Start the accounting of a cluster whose munge runs, with one account that root may use."""
    tables, socket = folder / "mariadb", folder / "mariadb.socket"
    if not (tables / "mysql").exists():
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={tables}", "--user=root", "--skip-test-db",
             "--auth-root-authentication-method=normal"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    start(
        folder,
        "mariadbd",
        ["mariadbd", "--no-defaults", "--user=root", f"--datadir={tables}", f"--socket={socket}", "--port=13316",
         "--bind-address=127.0.0.1", f"--pid-file={folder / 'mariadbd.pid'}", "--innodb-buffer-pool-size=64M",
         "--innodb-lock-wait-timeout=900"],
        stays=True,
    )  # fmt: skip
    (folder / "slurmdbd.conf").write_text(CONF.format(folder=folder))
    (folder / "slurmdbd.conf").chmod(0o600)
    start(folder, "slurmdbd", ["slurmdbd"], MYSQL_UNIX_PORT=str(socket))
    wait_for(lambda: _answers(folder), f"sacctmgr has no answer; see {folder}/slurmdbd.log")
    if cluster not in run("sacctmgr", "-nP", "list", "cluster", "format=cluster").split():
        run("sacctmgr", "-iQ", "add", "cluster", cluster)
        run("sacctmgr", "-iQ", "add", "account", ACCOUNT, f"cluster={cluster}")
        run("sacctmgr", "-iQ", "add", "user", "root", f"account={ACCOUNT}", f"cluster={cluster}")


def down(folder: Path) -> None:
    """End it, and forget all that was accounted."""
    stop(folder, "slurmdbd")
    stop(folder, "mariadbd")
    shutil.rmtree(folder / "mariadb", ignore_errors=True)


def _answers(folder: Path) -> bool:
    return subprocess.run(["sacctmgr", "-n", "list", "cluster"], check=False, capture_output=True).returncode == 0
