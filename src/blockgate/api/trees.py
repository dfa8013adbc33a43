"""The tree of everything, as a JSON document."""

from __future__ import annotations

from dataclasses import dataclass

from blockgate.api.context import GatewayInfo
from blockgate.control.views import ExportInfo, PoolInfo, SessionInfo, TargetInfo, Tree, VolumeInfo


@dataclass(frozen=True, slots=True)
class ExportNode:
    """An export and its sessions."""

    export: ExportInfo
    sessions: tuple[SessionInfo, ...]


@dataclass(frozen=True, slots=True)
class VolumeNode:
    """A volume and its exports."""

    volume: VolumeInfo
    exports: tuple[ExportNode, ...]


@dataclass(frozen=True, slots=True)
class PoolNode:
    """A pool and its volumes."""

    pool: PoolInfo
    volumes: tuple[VolumeNode, ...]


@dataclass(frozen=True, slots=True)
class TargetNode:
    """A target and its sessions."""

    target: TargetInfo
    sessions: tuple[SessionInfo, ...]


@dataclass(frozen=True, slots=True)
class TreeDocument:
    """Everything; `handshakes` are sessions that have not chosen an export or target yet."""

    gateway: GatewayInfo
    pools: tuple[PoolNode, ...]
    targets: tuple[TargetNode, ...]
    handshakes: tuple[SessionInfo, ...]


def tree_document(gateway: GatewayInfo, tree: Tree) -> TreeDocument:
    """Control's tree below the gateway that shows it."""
    pools = tuple(
        PoolNode(
            pool.pool,
            tuple(
                VolumeNode(one.volume, tuple(ExportNode(*pair) for pair in one.exports))
                for one in pool.volumes
            ),
        )
        for pool in tree.pools
    )
    targets = tuple(TargetNode(one.target, one.sessions) for one in tree.targets)
    return TreeDocument(gateway, pools, targets, tree.handshakes)
