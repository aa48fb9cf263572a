"""What Redis does in one step: Lua scripts, each of which touches one key."""

from __future__ import annotations

import hashlib
from typing import Any

import redis


class Script:
    """A Lua script that touches one key."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()  # Redis's name for it

    def queue(self, pipe: Any, key: bytes, *arguments: object) -> None:
        """Add a call to a pipeline (`pipe.evalsha` would refuse on a cluster, where one key is fine)."""
        # by itself the client of a cluster asks a node which of the words are keys, for every call
        spread = isinstance(pipe, redis.cluster.ClusterPipeline)
        where = {"target_nodes": pipe.get_node_from_key(key)} if spread else {}
        pipe.execute_command("EVALSHA", self.sha, 1, key, *arguments, **where)


# KEYS[1] the hash; ARGV: partition, offset, expiry in ms since the epoch, then tag, taxonomy, cluster, all
# three empty when only the position is to be kept. Returns 0: what is there is newer; 1: written (or was
# written before by the same record); {taxonomy, cluster}: written, and the id was a member of that set.
# HSET comes first for tags, so that a full Redis refuses before anything changed; for deletions HDEL comes
# first, which a full Redis allows, and after which it allows the rest.
PUT = Script("""
local old = redis.call('HMGET', KEYS[1], 'position', 'taxonomy', 'cluster')
if old[1] then
  local partition, offset = string.match(old[1], '^(%d+):(%d+)$')
  if partition == ARGV[1] and tonumber(offset) > tonumber(ARGV[2]) then return 0 end
end
local position = ARGV[1] .. ':' .. ARGV[2]
if ARGV[4] == '' then
  redis.call('HDEL', KEYS[1], 'tag', 'taxonomy', 'cluster')
  redis.call('HSET', KEYS[1], 'position', position)
else
  redis.call('HSET', KEYS[1], 'tag', ARGV[4], 'position', position, 'taxonomy', ARGV[5], 'cluster', ARGV[6])
end
redis.call('PEXPIREAT', KEYS[1], ARGV[3])
if old[2] and old[3] and (old[2] ~= ARGV[5] or old[3] ~= ARGV[6]) then return {old[2], old[3]} end
return 1
""")

# KEYS[1] the view's hash; ARGV: partition, start, end, time in ms. The caller has written all of
# [start, end): with everything below `start` already here, everything below `end` is. Returns how far this
# Redis is, -1 when it does not know the partition (it is new, or was emptied).
ADVANCE = Script("""
local old = redis.call('HGET', KEYS[1], ARGV[1])
local offset, at = string.match(old or '', '^(%d+):(%d+)$')
if not offset then return -1 end
offset, at = tonumber(offset), tonumber(at)
local start, stop, now = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if offset < start or offset > stop then return offset end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f:%.0f', stop, math.max(at, now)))
return stop
""")

# KEYS[1] a tag's hash; ARGV: the position at which it was judged. Deletes it if it is still there.
FORGET = Script("""
if redis.call('HGET', KEYS[1], 'position') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")
