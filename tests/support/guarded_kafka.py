"""An Apache Kafka with ACLs: who comes in the clear may do everything, who logs in what it was granted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests.support.waiting import PATIENCE, wait_for
from worker.demo.backends import JavaKafka, free_ports

USER, PASSWORD = "worker", "secret"
Right = tuple[ResourceType, str, ResourcePatternType, AclOperation]


class GuardedKafka(JavaKafka):
    """A broker with a second listener, for a user without rights."""

    def __init__(
        self, home: Path, folder: Path | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(home, folder)
        (self.sasl_port,) = free_ports(1)
        plain, control = f"PLAINTEXT://{self.bootstrap}", f"CONTROLLER://127.0.0.1:{self._controller}"
        guarded = f"SASL://127.0.0.1:{self.sasl_port}"
        self._options = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "listeners": f"{plain},{control},{guarded}",
            "advertised.listeners": f"{plain},{guarded}",
            "listener.security.protocol.map":
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl.plain.sasl.jaas.config":
                "org.apache.kafka.common.security.plain.PlainLoginModule required "
                f'user_{USER}="{PASSWORD}";',
            **(options or {}),
        }  # fmt: skip

    @property
    def connection(self) -> dict[str, str]:
        """Of the user."""
        return {
            "bootstrap.servers": f"127.0.0.1:{self.sasl_port}",
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": USER,
            "sasl.password": PASSWORD,
        }

    @property
    def settings(self) -> dict[str, str]:
        """Of a worker that is the user."""
        found = {f"WORKER_KAFKA_{k.upper().replace('.', '_')}": v for k, v in self.connection.items()}
        return {"WORKER_BOOTSTRAP_SERVERS": found.pop("WORKER_KAFKA_BOOTSTRAP_SERVERS"), **found}

    def grant(self, rights: Iterable[Right]) -> None:
        """Returns when the broker knows them; it hears of all at once, a moment after the controller."""
        self._add(rights, AclPermissionType.ALLOW)
        user = AdminClient(self.connection)
        named = {name for kind, name, *_ in rights if kind == ResourceType.TOPIC and name != "*"}
        wait_for("the broker knows them", lambda: named <= user.list_topics(timeout=PATIENCE).topics.keys())

    def withdraw(self, right: Right) -> None:
        assert self._remove(right, AclPermissionType.ALLOW) == 1

    def forbid(self, right: Right) -> None:
        """Whatever else was granted."""
        self._add([right], AclPermissionType.DENY)

    def allow_again(self, right: Right) -> None:
        assert self._remove(right, AclPermissionType.DENY) == 1

    def _add(self, rights: Iterable[Right], permission: AclPermissionType) -> None:
        made = [AclBinding(*right[:3], f"User:{USER}", "*", right[3], permission) for right in rights]
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for future in admin.create_acls(made).values():
            future.result(PATIENCE)

    def _remove(self, right: Right, permission: AclPermissionType) -> int:
        gone = AclBindingFilter(*right[:3], f"User:{USER}", "*", right[3], permission)
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        (future,) = admin.delete_acls([gone]).values()
        return len(future.result(PATIENCE))
