"""Several Redis servers that belong together: a Redis Cluster, or a primary with Sentinels."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.redis_server import RedisServer, running
from tests.support.waiting import wait_for
from worker.demo.backends import free_ports

CLI = "redis-cli, which makes the cluster, is not on the PATH (Debian: redis-tools)"


class RedisCluster:
    """Servers of a Redis Cluster, on loopback."""

    def __init__(self, servers: list[RedisServer]) -> None:
        self.servers = servers

    @property
    def url(self) -> str:
        """Of the first and the last; clients find the others."""
        ends = (self.servers[0], self.servers[-1])
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in ends)

    def client(self) -> Any:
        return redis.RedisCluster(host="127.0.0.1", port=self.servers[-1].port, protocol=2)

    def primary_of(self, key: bytes | str) -> RedisServer:
        """The server that has the key now."""
        with contextlib.closing(self.client()) as client:
            port = client.get_node_from_key(key).port
        return next(server for server in self.servers if server.port == port)

    def replica_of(self, primary: RedisServer) -> RedisServer:
        found = {server: server.client().info("replication") for server in self.servers}
        return next(
            s for s, its in found.items() if its["role"] == "slave" and its["master_port"] == primary.port
        )

    def healthy(self, servers: list[RedisServer]) -> bool:
        """Whether all of these see every slot served."""
        return all("cluster_state:ok" in _info(server) for server in servers)


def _info(server: RedisServer) -> str:
    return str(server.client(decode_responses=True).execute_command("CLUSTER", "INFO"))


@contextlib.contextmanager
def redis_cluster(primaries: int = 3, replicas: int = 1) -> Iterator[RedisCluster]:
    """A started cluster; a primary that is gone for a second is replaced by its replica."""
    cli = shutil.which("redis-cli")
    if cli is None:
        pytest.skip(CLI)
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(running(*options, "--cluster-port", str(port)))
            for port in free_ports(primaries * (1 + replicas))
        ]
        nodes = [f"127.0.0.1:{server.port}" for server in servers]
        command = [cli, "--cluster", "create", *nodes, "--cluster-replicas", str(replicas), "--cluster-yes"]
        subprocess.run(command, check=True, capture_output=True)
        cluster = RedisCluster(servers)
        wait_for("every slot is served", lambda: cluster.healthy(servers))
        if replicas:
            wait_for("replicas follow", lambda: all(_in_sync(server) for server in servers))
        yield cluster


def _in_sync(server: RedisServer) -> bool:
    found = server.client().info("replication")
    if found["role"] == "slave":
        return bool(found["master_link_status"] == "up")
    return int(found["connected_slaves"]) > 0


class Sentinels:
    """A primary, its replica, and three Sentinels that watch them."""

    def __init__(self, servers: list[RedisServer], ports: list[int]) -> None:
        self.servers, self.ports = servers, ports

    @property
    def url(self) -> str:
        return "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in self.ports) + "/uploads/0"

    def primary(self) -> RedisServer:
        """The server that the Sentinels name now."""
        with contextlib.closing(redis.Redis(port=self.ports[0], protocol=2)) as sentinel:
            _, port = sentinel.execute_command("SENTINEL", "get-master-addr-by-name", "uploads")
        return next(server for server in self.servers if server.port == int(port))


@contextlib.contextmanager
def sentinels(folder: Path) -> Iterator[Sentinels]:
    """A primary that is gone for a second is replaced by its replica."""
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(running())
        replica = stack.enter_context(running("--replicaof", "127.0.0.1", str(primary.port)))
        wait_for("the replica follows", lambda: _in_sync(primary) and _in_sync(replica))
        ports = free_ports(3)
        for port in ports:
            file = folder / f"sentinel-{port}.conf"
            file.write_text(
                f"sentinel monitor uploads 127.0.0.1 {primary.port} 2\n"
                "sentinel down-after-milliseconds uploads 1000\n"
                "sentinel failover-timeout uploads 5000\n"
            )
            stack.enter_context(_sentinel(file, port))
        found = Sentinels([primary, replica], ports)
        wait_for("Sentinels know each other", lambda: all(_knows(port) for port in ports))
        yield found


@contextlib.contextmanager
def _sentinel(file: Path, port: int) -> Iterator[None]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server, which is the Sentinel too, is not on the PATH")
    command = [binary, str(file), "--sentinel", "--port", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _knows(port: int) -> bool:
    """Whether a Sentinel knows the replica and both others."""
    with contextlib.suppress(redis.RedisError), contextlib.closing(redis.Redis(port=port)) as sentinel:
        found: Any = sentinel.execute_command("SENTINEL", "master", "uploads")
        if not isinstance(found, dict):
            found = dict(zip(found[::2], found[1::2], strict=True))
        named = {str(key.decode() if isinstance(key, bytes) else key): value for key, value in found.items()}
        return int(named["num-slaves"]) == 1 and int(named["num-other-sentinels"]) == 2
    return False
