"""The part of `Control` that is about iSCSI: targets, groups, discovery, CHAP users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blockgate.control.chap import ChapUsers
from blockgate.control.target_reading import TargetReading
from blockgate.control.targets import Groups, Targets
from blockgate.control.views import ChapInfo, DiscoveryInfo, GroupInfo, TargetInfo
from blockgate.model.callers import Caller


class TargetControl:
    """Use cases that initiators feel. `values` are those of a document's entry."""

    def __init__(
        self, reading: TargetReading, targets: Targets, groups: Groups, chap: ChapUsers
    ) -> None:
        self._initiators = reading
        self._targets = targets
        self._groups = groups
        self._chap = chap

    # Targets

    async def target_create(
        self, caller: Caller, operation_id: str, name: str, values: Mapping[str, Any] | None = None
    ) -> TargetInfo:
        """Make a target. It is closed until an ACL lets somebody in, or its access is open."""
        return await self._targets.create(caller, operation_id, name, values or {})

    async def target_list(self, caller: Caller) -> list[TargetInfo]:
        """All targets, by name."""
        return await self._initiators.targets(caller)

    async def target_info(self, caller: Caller, name: str) -> TargetInfo:
        """One target."""
        return await self._initiators.target(caller, name)

    async def target_update(
        self,
        caller: Caller,
        operation_id: str,
        name: str,
        values: Mapping[str, Any],
        *,
        force: bool = False,
    ) -> TargetInfo:
        """Change what is given, of the parameters those that are named.

        What live sessions would not survive takes `force`. Parameters hold for log-ins to come.
        """
        return await self._targets.update(caller, operation_id, name, values, force)

    async def target_remove(
        self, caller: Caller, operation_id: str, name: str, *, force: bool = False
    ) -> None:
        """Let nobody log in any more. Refused while sessions use it, unless `force`."""
        await self._targets.remove(caller, operation_id, name, force)

    async def lun_add(
        self,
        caller: Caller,
        operation_id: str,
        name: str,
        volume: str,
        *,
        lun: int | None = None,
        read_only: bool = False,
        acl: str | None = None,
    ) -> TargetInfo:
        """Map a volume: in the target's own view, or in that of an ACL (`acl`, its subject)."""
        return await self._targets.lun_add(caller, operation_id, name, volume, lun, read_only, acl)

    async def lun_remove(
        self,
        caller: Caller,
        operation_id: str,
        name: str,
        lun: int,
        *,
        acl: str | None = None,
        force: bool = False,
    ) -> TargetInfo:
        """Map a volume no longer. Refused while sessions see it, unless `force`."""
        return await self._targets.lun_remove(caller, operation_id, name, lun, acl, force)

    async def acl_add(
        self,
        caller: Caller,
        operation_id: str,
        name: str,
        values: Mapping[str, Any],
        *,
        force: bool = False,
    ) -> TargetInfo:
        """Let an initiator or a group in. Refused where that takes something from live sessions,
        unless `force`."""
        return await self._targets.acl_add(caller, operation_id, name, values, force)

    async def acl_update(
        self,
        caller: Caller,
        operation_id: str,
        name: str,
        subject: str,
        values: Mapping[str, Any],
        *,
        force: bool = False,
    ) -> TargetInfo:
        """Change what is given of an ACL; `subject` is an initiator's name or `group:NAME`."""
        return await self._targets.acl_update(caller, operation_id, name, subject, values, force)

    async def acl_remove(
        self, caller: Caller, operation_id: str, name: str, subject: str, *, force: bool = False
    ) -> TargetInfo:
        """Let an initiator or a group in no longer."""
        return await self._targets.acl_remove(caller, operation_id, name, subject, force)

    # Groups of initiators

    async def group_create(
        self, caller: Caller, operation_id: str, name: str, initiators: Sequence[str] = ()
    ) -> GroupInfo:
        """Make a group."""
        return await self._groups.create(caller, operation_id, name, initiators)

    async def group_list(self, caller: Caller) -> list[GroupInfo]:
        """All groups, by name."""
        return self._initiators.groups(caller)

    async def group_info(self, caller: Caller, name: str) -> GroupInfo:
        """One group."""
        return self._initiators.group(caller, name)

    async def group_update(
        self,
        caller: Caller,
        operation_id: str,
        name: str,
        *,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
        force: bool = False,
    ) -> GroupInfo:
        """Put initiators in, take others out; what would end sessions takes `force`."""
        return await self._groups.update(caller, operation_id, name, add, remove, force)

    async def group_remove(self, caller: Caller, operation_id: str, name: str) -> None:
        """Forget a group that no target lets in."""
        await self._groups.remove(caller, operation_id, name)

    # Discovery, and CHAP users

    async def discovery(self, caller: Caller) -> DiscoveryInfo:
        """What discovery asks for."""
        return self._initiators.discovery(caller)

    async def discovery_set(
        self,
        caller: Caller,
        operation_id: str,
        *,
        chap: str | None = None,
        mutual_chap: str | None = None,
    ) -> DiscoveryInfo:
        """Let discovery ask for these CHAP users; "" for none, None for what there is."""
        return await self._groups.set_discovery(caller, operation_id, chap, mutual_chap)

    async def chap_set(
        self, caller: Caller, operation_id: str, user: str, *, secret: str | None = None
    ) -> ChapInfo:
        """Give a user a secret: itself, `file:/PATH`, or None to make one. It may be new."""
        return await self._chap.set(caller, operation_id, user, secret)

    async def chap_rotate(
        self, caller: Caller, operation_id: str, user: str, *, secret: str | None = None
    ) -> ChapInfo:
        """The same for a user that exists. Nobody is logged out."""
        return await self._chap.set(caller, operation_id, user, secret, must_exist=True)

    async def chap_list(self, caller: Caller) -> list[ChapInfo]:
        """All CHAP users, without their secrets."""
        return self._initiators.users(caller)

    async def chap_remove(self, caller: Caller, operation_id: str, user: str) -> None:
        """Forget a user that nothing asks for."""
        await self._chap.remove(caller, operation_id, user)
