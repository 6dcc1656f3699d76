"""Users, roles and permissions while authentication is off: the book behind /v3/auth. Pure.

As in etcd, users and roles can be prepared before auth is enabled; every change is an auth
revision, and `enable` needs a user root that has the role root. Enabling itself is not part of
this edge: whoever asks for it properly gets a sentence, not a half-closed door.

A book that is `read_only` (nobody keeps it) refuses every change that would otherwise be made,
after the same checks, so that nothing seems to be stored that is not. Passwords are not kept at
all: auth is off, so none is ever compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from kv.etcd.answers import Present
from kv.etcd.errors import EtcdError, Grpc
from kv.etcd.protojson import Message

ROOT: Final = "root"
PERMISSIONS: Final = ("READ", "WRITE", "READWRITE")


class Permission(NamedTuple):
    kind: int
    key: bytes
    range_end: bytes


def _refuse(words: str, grpc: Grpc = Grpc.FAILED_PRECONDITION) -> EtcdError:
    return EtcdError(grpc, f"etcdserver: {words}")


class UserBook:
    def __init__(self, *, read_only: bool = False) -> None:
        self._read_only = read_only
        self._users: dict[str, list[str]] = {}
        """Name -> roles, sorted."""
        self._roles: dict[str, list[Permission]] = {}
        """Name -> permissions, by key and end."""
        self.revision = 1

    def answer(self, path: str, given: Message) -> Message:
        """What follows the header of an answer to /v3/auth/{path}. Raises EtcdError."""
        return _CALLS[path](self, given) or {}

    # --- the whole ---

    def _status(self, given: Message) -> Message:
        return {"authRevision": self.revision}

    def _authenticate(self, given: Message) -> Message:
        raise _refuse("authentication is not enabled")

    def _enable(self, given: Message) -> Message:
        roles = self._users.get(ROOT)
        if roles is None:
            raise _refuse("root user does not exist")
        if ROOT not in roles:
            raise _refuse("root user does not have root role")
        raise EtcdError(
            Grpc.UNIMPLEMENTED, "authentication cannot be enabled in this version of JanusKV"
        )

    def _disable(self, given: Message) -> Message:
        return {}

    # --- users ---

    def _user_add(self, given: Message) -> None:
        name = given.get("name", "")
        if not name:
            raise _refuse("user name is empty", Grpc.INVALID_ARGUMENT)
        if name in self._users:
            raise _refuse("user name already exists")
        self._change()
        self._users[name] = []

    def _user_get(self, given: Message) -> Message:
        return {"roles": list(self._roles_of(given.get("name", "")))}

    def _user_list(self, given: Message) -> Message:
        return {"users": sorted(self._users)}

    def _user_delete(self, given: Message) -> None:
        self._roles_of(given.get("name", ""))
        self._change()
        del self._users[given["name"]]

    def _user_changepw(self, given: Message) -> None:
        self._roles_of(given.get("name", ""))
        self._change()

    def _user_grant(self, given: Message) -> None:
        roles, role = self._roles_of(given.get("user", "")), given.get("role", "")
        if role != ROOT:
            self._permissions_of(role)
        self._change()
        if role not in roles:
            roles.append(role)
            roles.sort()

    def _user_revoke(self, given: Message) -> None:
        roles, role = self._roles_of(given.get("name", "")), given.get("role", "")
        if role not in roles:
            raise _refuse("role is not granted to the user")
        self._change()
        roles.remove(role)

    def _roles_of(self, user: str) -> list[str]:
        roles = self._users.get(user)
        if roles is None:
            raise _refuse("user name not found")
        return roles

    # --- roles ---

    def _role_add(self, given: Message) -> None:
        name = given.get("name", "")
        if not name:
            raise _refuse("role name is empty", Grpc.INVALID_ARGUMENT)
        if name in self._roles:
            raise _refuse("role name already exists")
        self._change()
        self._roles[name] = []

    def _role_get(self, given: Message) -> Message:
        permissions = self._permissions_of(given.get("role", ""))
        return {
            "perm": [
                Present(
                    permType=PERMISSIONS[each.kind] if each.kind else "",
                    key=each.key,
                    range_end=each.range_end,
                )
                for each in permissions
            ]
        }

    def _role_list(self, given: Message) -> Message:
        return {"roles": sorted(self._roles)}

    def _role_delete(self, given: Message) -> None:
        role = given.get("role", "")
        self._permissions_of(role)
        self._change()
        del self._roles[role]
        for roles in self._users.values():
            if role in roles:
                roles.remove(role)

    def _role_grant(self, given: Message) -> None:
        if "perm" not in given:
            raise _refuse("permission not given", Grpc.INVALID_ARGUMENT)
        permissions = self._permissions_of(given.get("name", ""))
        perm = given["perm"]
        made = Permission(perm.get("permType", 0), perm.get("key", b""), perm.get("range_end", b""))
        if not 0 <= made.kind < len(PERMISSIONS):
            raise _refuse("permission not given", Grpc.INVALID_ARGUMENT)
        self._change()
        permissions[:] = [each for each in permissions if each[1:] != made[1:]]
        permissions.append(made)
        permissions.sort(key=lambda each: each[1:])

    def _role_revoke(self, given: Message) -> None:
        permissions = self._permissions_of(given.get("role", ""))
        place = given.get("key", b""), given.get("range_end", b"")
        left = [each for each in permissions if each[1:] != place]
        if len(left) == len(permissions):
            raise _refuse("permission is not granted to the role")
        self._change()
        permissions[:] = left

    def _permissions_of(self, role: str) -> list[Permission]:
        permissions = self._roles.get(role)
        if permissions is None:
            raise _refuse("role name not found")
        return permissions

    def _change(self) -> None:
        if self._read_only:
            raise EtcdError(
                Grpc.UNIMPLEMENTED,
                "users and roles cannot be stored in this version of JanusKV; authentication is "
                "off, so none are needed",
            )
        self.revision += 1


_CALLS: Final[dict[str, Callable[[UserBook, Message], Message | None]]] = {
    "status": UserBook._status,
    "authenticate": UserBook._authenticate,
    "enable": UserBook._enable,
    "disable": UserBook._disable,
    "user/add": UserBook._user_add,
    "user/get": UserBook._user_get,
    "user/list": UserBook._user_list,
    "user/delete": UserBook._user_delete,
    "user/changepw": UserBook._user_changepw,
    "user/grant": UserBook._user_grant,
    "user/revoke": UserBook._user_revoke,
    "role/add": UserBook._role_add,
    "role/get": UserBook._role_get,
    "role/list": UserBook._role_list,
    "role/delete": UserBook._role_delete,
    "role/grant": UserBook._role_grant,
    "role/revoke": UserBook._role_revoke,
}
