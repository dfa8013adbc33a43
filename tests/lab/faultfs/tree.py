"""The tree of nodes, the kernel's handles on them, and the power switch."""

from __future__ import annotations

import errno
import os
import stat as stat_bits
from typing import Final, TypeVar

from tests.lab.faultfs.nodes import Directory, File, Node

ROOT: Final = 1
NodeT = TypeVar("NodeT", bound=Node)


def failure(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class Tree:
    """Owns every node. Numbers and handles are never used twice."""

    def __init__(self) -> None:
        self.root = Directory(stat_bits.S_IFDIR | 0o755, 0, 0, number=ROOT, nlink=2)
        self.nodes: dict[int, Node] = {ROOT: self.root}
        self.paths: dict[int, str] = {ROOT: ""}
        self._handles: dict[int, Node] = {}
        self._next_number = ROOT + 1
        self._next_handle = 1

    # What the kernel refers to ---------------------------------------------------------------

    def node(self, number: int) -> Node:
        """The node; EIO if the power went since the kernel learnt its number."""
        try:
            return self.nodes[number]
        except KeyError:
            raise failure(errno.EIO) from None

    def directory(self, number: int) -> Directory:
        return self._kind(self.node(number), Directory, errno.ENOTDIR)

    def file(self, number: int) -> File:
        return self._kind(self.node(number), File, errno.EINVAL)

    def handle_file(self, handle: int) -> File:
        """The file behind an open handle; EIO if it was opened before the power went."""
        node = self._handles.get(handle)
        if node is None:
            raise failure(errno.EIO)
        return self._kind(node, File, errno.EINVAL)

    def open(self, node: Node) -> int:
        handle = self._next_handle
        self._next_handle += 1
        self._handles[handle] = node
        return handle

    def close(self, handle: int) -> None:
        self._handles.pop(handle, None)

    def look_up(self, parent: Directory, name: bytes) -> Node:
        """A node by name, with one more reference by the kernel."""
        try:
            node = parent.names[name]
        except KeyError:
            raise failure(errno.ENOENT) from None
        return self.refer(parent, name, node)

    def refer(self, parent: Directory, name: bytes, node: Node) -> Node:
        self._number(node)
        self.paths[node.number] = f"{self.paths.get(parent.number, '')}/{os.fsdecode(name)}"
        node.lookups += 1
        return node

    def forget(self, number: int, count: int) -> None:
        node = self.nodes.get(number)
        if node is None or number == ROOT:
            return
        node.lookups -= count
        if node.lookups <= 0:
            del self.nodes[number]
            self.paths.pop(number, None)
            node.number = 0

    def path(self, number: int) -> str:
        return self.paths.get(number, "?")

    def walk(self, path: str) -> tuple[Directory, bytes]:
        """The directory and the last name of a path inside the file system."""
        *parents, last = [os.fsencode(part) for part in path.split("/") if part]
        here: Node = self.root
        for part in parents:
            here = self._kind(here, Directory, errno.ENOTDIR).names[part]
        return self._kind(here, Directory, errno.ENOTDIR), last

    # Names -----------------------------------------------------------------------------------

    def add(self, parent: Directory, name: bytes, node: Node) -> Node:
        if name in parent.names:
            raise failure(errno.EEXIST)
        parent.names[name] = node
        return self.refer(parent, name, node)

    def link(self, node: Node, parent: Directory, name: bytes) -> Node:
        if name in parent.names:
            raise failure(errno.EEXIST)
        node.nlink += 1
        parent.names[name] = node
        return self.refer(parent, name, node)

    def unlink(self, parent: Directory, name: bytes) -> None:
        if parent.names.get(name) is None:
            raise failure(errno.ENOENT)
        parent.names.pop(name).nlink -= 1

    def remove_directory(self, parent: Directory, name: bytes) -> None:
        node = parent.names.get(name)
        if node is None:
            raise failure(errno.ENOENT)
        if self._kind(node, Directory, errno.ENOTDIR).names:
            raise failure(errno.ENOTEMPTY)
        parent.names.pop(name).nlink = 0

    def rename(
        self,
        old_parent: Directory,
        old: bytes,
        new_parent: Directory,
        new: bytes,
        *,
        noreplace: bool,
        exchange: bool,
    ) -> None:
        node = old_parent.names.get(old)
        if node is None:
            raise failure(errno.ENOENT)
        other = new_parent.names.get(new)
        if other is not None and noreplace:
            raise failure(errno.EEXIST)
        if exchange:
            if other is None:
                raise failure(errno.ENOENT)
            old_parent.names[old] = other
        else:
            if other is node:
                return
            if isinstance(other, Directory) and other.names:
                raise failure(errno.ENOTEMPTY)
            if other is not None:
                other.nlink -= 1
            del old_parent.names[old]
        new_parent.names[new] = node
        if node.number:
            self.paths[node.number] = f"{self.path(new_parent.number)}/{os.fsdecode(new)}"

    # Power -----------------------------------------------------------------------------------

    def lose_power(self) -> None:
        """Go back to what is durable. What was open stays open, and answers EIO for ever."""
        self.nodes = {ROOT: self.root}
        self.paths = {ROOT: ""}
        self._handles.clear()
        links: dict[int, int] = {}
        seen: dict[int, Node] = {}
        todo: list[Node] = [self.root]
        while todo:
            node = todo.pop()
            links[id(node)] = links.get(id(node), 0) + 1
            if id(node) in seen:
                continue
            seen[id(node)] = node
            node.lose()
            node.lookups = 0
            if node is not self.root:
                node.number = 0
            if isinstance(node, Directory):
                todo.extend(node.names.values())
        for key, node in seen.items():
            node.nlink = 2 if isinstance(node, Directory) else links[key]

    # Inside ----------------------------------------------------------------------------------

    def _number(self, node: Node) -> None:
        if node.number == 0:
            node.number = self._next_number
            self._next_number += 1
            self.nodes[node.number] = node

    @staticmethod
    def _kind(node: Node, kind: type[NodeT], code: int) -> NodeT:
        if not isinstance(node, kind):
            raise failure(errno.EISDIR if isinstance(node, Directory) else code)
        return node


__all__ = ["ROOT", "Tree", "failure"]
