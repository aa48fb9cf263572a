"""Which Redis commands each program sends: what its user must be allowed, and no more.

A test runs everything as users with exactly these rights, and finds none missing and none to spare.
"""

from __future__ import annotations

from collections.abc import Iterable

CONNECT = frozenset({"client|setname", "select"})  # SELECT where the URL names a database
VIEW = CONNECT | {
    "evalsha", "eval", "script|load",
    "hget", "hmget", "hset", "hdel", "del", "set", "pexpire", "pexpireat",
    "zadd", "zrem", "zremrangebyrank", "zremrangebyscore",
    "scan", "zscan",
}  # fmt: skip
OPERATORS = CONNECT | {"info", "set", "del", "get", "exists", "hmget"}
READERS = CONNECT | {"get", "hget", "hmget", "hgetall", "hkeys", "zrevrangebyscore", "zcard", "zcount"}
CLUSTER = frozenset({"cluster|slots", "command"})  # beside these, on a Redis Cluster
USERS = {
    "view": ("`run`, `view`", VIEW),
    "operators": ("`check`, `explain`, `models`", OPERATORS),
    "readers": ("feeds, `wall`", READERS),
}


def rules(commands: Iterable[str], prefix: str = "imgclust:") -> list[str]:
    """The rules of `ACL SETUSER` for a user with these commands on the keys of a prefix."""
    return [f"~{prefix}*", "resetchannels", "-@all", *(f"+{name}" for name in sorted(commands))]


def access_table() -> str:
    """For docs/redis.md: the users as Redis takes them."""
    lines = ["```"]
    for name, (programs, commands) in USERS.items():
        lines += [
            f"# {programs.replace('`', '')}",
            f"ACL SETUSER {name} on >PASSWORD {' '.join(rules(commands))}",
        ]
    lines += [
        "# each of them on a Redis Cluster: also",
        " ".join(f"+{name}" for name in sorted(CLUSTER)),
        "```",
    ]
    return "\n".join(lines)
