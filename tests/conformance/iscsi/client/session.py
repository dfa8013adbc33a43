"""A well-behaved initiator's session: login, commands, task management. Tests bend it."""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from tests.conformance.iscsi.client import pdu as p
from tests.conformance.iscsi.client.chap import Chap
from tests.conformance.iscsi.client.connection import TIMEOUT_S, Closed, Connection
from tests.conformance.iscsi.client.pdu import NO_TAG, Opcode, Pdu

Keys = Mapping[str, str]
INITIATOR: Final = "iqn.2026-01.org.example:scenario"
_PER_CONNECTION: Final = ("HeaderDigest", "DataDigest", "MaxRecvDataSegmentLength")
_SECURITY, _OPERATIONAL, _FULL_FEATURE = 0, 1, 3


def encode_keys(keys: Keys) -> bytes:
    """`key=value`, each ended by a zero byte (RFC 7143 section 6.1)."""
    return b"".join(f"{key}={value}\0".encode() for key, value in keys.items())


def decode_keys(data: bytes) -> dict[str, str]:
    pairs = (part.decode().partition("=") for part in data.split(b"\0") if part)
    return {key: value for key, _, value in pairs}


class LoginFailed(Exception):
    """A Login Response whose status class is not 0; `status` is class and detail."""

    def __init__(self, response: Pdu) -> None:
        super().__init__(f"login status {response.login_status:#06x}")
        self.status = response.login_status
        self.keys = decode_keys(response.data)


@dataclass
class Answer:
    """How a SCSI command ended."""

    status: int
    data: bytes = b""
    sense: bytes = b""
    residual: int = 0
    response: int = 0
    pdus: list[Pdu] = field(default_factory=list)

    @property
    def sense_code(self) -> tuple[int, int, int]:
        """Key, ASC and ASCQ, of fixed or descriptor format (SPC-4 4.5)."""
        if not self.sense:
            return (0, 0, 0)
        if self.sense[0] & 0x7F in (0x72, 0x73):
            return (self.sense[1] & 0x0F, self.sense[2], self.sense[3])
        return (self.sense[2] & 0x0F, self.sense[12], self.sense[13])


class Session:
    """One I_T nexus. `connections[0]` is the leading connection; `add_connection` gives more."""

    def __init__(
        self,
        address: tuple[str, int],
        target: str = "",
        *,
        initiator: str = INITIATOR,
        isid: bytes | None = None,
        keys: Keys | None = None,
        chap: Chap | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        self.address = address
        self.target = target
        self.initiator = initiator
        # "random" format of an ISID (11.12.5): no two sessions are one nexus by accident
        self.isid = isid or b"\x80" + secrets.token_bytes(5)
        self.wanted = dict(keys or {})
        self.chap = chap
        self.tsih = 0
        self.cmd_sn = 1
        self.max_cmd_sn = 1
        self._tags = itertools.count(1)
        self.connections: list[Connection] = []
        self.agreed: dict[str, str] = {}
        self._receive_buffer = receive_buffer

    # Login (RFC 7143 section 6) ------------------------------------------------------------------

    def login(self) -> Self:
        self.connections.append(self._log_in(0))
        return self

    def add_connection(self, address: tuple[str, int] | None = None) -> Connection:
        """One more connection for the session (6.3.1): the same ISID and TSIH, another CID."""
        connection = self._log_in(len(self.connections), address)
        self.connections.append(connection)
        return connection

    def reinstate(self, connection: Connection) -> Connection:
        """Logs in with the CID of a connection that is there (6.3.4): a new one in its place."""
        new = self._log_in(connection.cid)
        self.connections[self.connections.index(connection)] = new
        return new

    def _log_in(self, cid: int, address: tuple[str, int] | None = None) -> Connection:
        connection = Connection(
            address or self.address, receive_buffer=self._receive_buffer, cid=cid
        )
        try:
            self._negotiate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _negotiate(self, connection: Connection) -> None:
        first = {"InitiatorName": self.initiator}
        if self.target:
            first |= {"TargetName": self.target, "SessionType": "Normal"}
        else:
            first |= {"SessionType": "Discovery"}
        wanted = self.wanted
        if self.tsih:  # the others are the leading connection's alone to negotiate
            wanted = {key: value for key, value in wanted.items() if key in _PER_CONNECTION}
        operational = {"HeaderDigest": "None", "DataDigest": "None"} | wanted
        if self.chap is not None:
            keys = self.chap.offer()
            answer = self.login_step(connection, first | keys, (_SECURITY, _OPERATIONAL), False)
            while not answer.flags & 0x80:
                keys = self.chap.answer(decode_keys(answer.data))
                proof = "CHAP_R" in keys  # then nothing more is to be said from our side
                answer = self.login_step(connection, keys, (_SECURITY, _OPERATIONAL), proof)
            self.chap.verify(decode_keys(answer.data))
            first = {}
        keys = first | operational
        answer = self.login_step(connection, keys, (_OPERATIONAL, _FULL_FEATURE))
        self.agreed |= decode_keys(answer.data)
        while not answer.flags & 0x80:
            answer = self.login_step(connection, {}, (_OPERATIONAL, _FULL_FEATURE))
            self.agreed |= decode_keys(answer.data)
        self.tsih = answer.get(14, 2)
        connection.use_digests(
            self.agreed.get("HeaderDigest") == "CRC32C", self.agreed.get("DataDigest") == "CRC32C"
        )

    def login_step(
        self, connection: Connection, keys: Keys, stages: tuple[int, int], transit: bool = True
    ) -> Pdu:
        """One Login Request and its response; raises :class:`LoginFailed`."""
        request = p.login_request(
            *(0, self.isid, self.tsih, connection.cid, stages, encode_keys(keys)), transit=transit
        )
        connection.send(request.put(24, 4, self.cmd_sn))
        response = connection.receive()
        assert response.opcode == Opcode.LOGIN_RESPONSE, str(response)
        if response.login_status >> 8:
            raise LoginFailed(response)
        self.see(response)
        return response

    # Tags and numbers ----------------------------------------------------------------------------

    @property
    def connection(self) -> Connection:
        return self.connections[0]

    def tag(self) -> int:
        return next(self._tags)

    def number(self, pdu: Pdu) -> Pdu:
        """Fills in CmdSN; one that is not immediate uses it up (4.2.2.1)."""
        pdu.put(24, 4, self.cmd_sn & 0xFFFFFFFF)
        if not pdu.immediate:
            self.cmd_sn += 1
        return pdu

    def see(self, pdu: Pdu) -> Pdu:
        """Takes note of the command window."""
        self.max_cmd_sn = pdu.max_cmd_sn
        return pdu

    @property
    def window(self) -> int:
        """How many commands may be sent now."""
        return (self.max_cmd_sn - self.cmd_sn + 1) & 0xFFFFFFFF

    # Commands ------------------------------------------------------------------------------------

    def start(
        self,
        cdb: bytes,
        *,
        lun: int = 1,
        read: int = 0,
        write: bytes = b"",
        immediate_data: bytes = b"",
        on: Connection | None = None,
        attribute: int = 1,
        immediate: bool = False,
        itt: int | None = None,
    ) -> int:
        """Sends a command without its solicited data; its task tag."""
        itt = self.tag() if itt is None else itt
        command = p.scsi_command(
            *(itt, lun, cdb),
            read=read > 0,
            write=bool(write),
            expected=read or len(write),
            immediate_data=immediate_data,
            attribute=attribute,
            immediate=immediate,
        )
        (on or self.connection).send(self.number(command))
        return itt

    def command(
        self,
        cdb: bytes,
        *,
        lun: int = 1,
        read: int = 0,
        write: bytes = b"",
        on: Connection | None = None,
        timeout_s: float = TIMEOUT_S,
        attribute: int = 1,
    ) -> Answer:
        """A whole command: answers each R2T, gathers Data-In, returns how it ended."""
        itt = self.start(cdb, lun=lun, read=read, write=write, on=on, attribute=attribute)
        return self.finish(itt, read=read, write=write, on=on, timeout_s=timeout_s)

    def finish(
        self,
        itt: int,
        *,
        read: int = 0,
        write: bytes = b"",
        on: Connection | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Answer:
        """Carries a command that was started to its end; PDUs of other tasks are passed over."""
        connection = on or self.connection
        data = bytearray(read)
        end = 0
        seen: list[Pdu] = []
        while True:
            pdu = connection.receive_until(lambda got: got.itt == itt, timeout_s)[0]
            self.see(pdu)
            seen.append(pdu)
            if pdu.opcode == Opcode.R2T:
                self.send_data(pdu, write, connection)
            elif pdu.opcode == Opcode.DATA_IN:
                at = pdu.buffer_offset
                data[at : at + len(pdu.data)] = pdu.data
                end = max(end, at + len(pdu.data))
                if pdu.flags & 0x01:
                    return Answer(pdu.status, bytes(data[:end]), residual=pdu.residual, pdus=seen)
            elif pdu.opcode == Opcode.SCSI_RESPONSE:
                length = int.from_bytes(pdu.data[:2], "big")
                sense = pdu.data[2 : 2 + length]
                return Answer(
                    *(pdu.status, bytes(data[:end]), sense, pdu.residual, pdu.response, seen)
                )
            else:
                raise AssertionError(f"{pdu} for a SCSI command")

    def send_data(self, r2t: Pdu, data: bytes, connection: Connection | None = None) -> None:
        """The Data-Out PDUs that an R2T asks for (11.8)."""
        largest = int(self.agreed.get("MaxRecvDataSegmentLength", "8192"))
        at, end = r2t.buffer_offset, r2t.buffer_offset + r2t.desired_length
        pdus = []
        for number, begin in enumerate(range(at, end, largest)):
            piece = data[begin : min(begin + largest, end)]
            final = begin + largest >= end
            pdus.append(p.data_out(r2t.itt, r2t.ttt, number, begin, piece, final=final))
        (connection or self.connection).send(*pdus)

    def clear_attentions(self, lun: int = 1) -> list[tuple[int, int, int]]:
        """TEST UNIT READY until it is GOOD; the unit attentions that were pending."""
        found: list[tuple[int, int, int]] = []
        for _ in range(16):
            answer = self.command(bytes(6), lun=lun)
            if answer.status == 0:
                return found
            found.append(answer.sense_code)
        raise AssertionError(f"never ready: {found}")

    # Other requests ------------------------------------------------------------------------------

    def manage(
        self, function: int, *, lun: int = 1, referenced: int = NO_TAG, timeout_s: float = TIMEOUT_S
    ) -> int:
        """A task management function; its response (11.6.1)."""
        itt = self.start_managing(function, lun=lun, referenced=referenced)
        return self.managed(itt, timeout_s)

    def start_managing(self, function: int, *, lun: int = 1, referenced: int = NO_TAG) -> int:
        itt = self.tag()
        request = p.task_management(itt, function, lun=lun, referenced=referenced)
        self.connection.send(self.number(request))
        return itt

    def managed(self, itt: int, timeout_s: float = TIMEOUT_S) -> int:
        response, _ = self.connection.receive_until(lambda got: got.itt == itt, timeout_s)
        assert response.opcode == Opcode.TASK_MANAGEMENT_RESPONSE, str(response)
        return self.see(response).response

    def ping(self, data: bytes = b"ping", on: Connection | None = None) -> bytes:
        """A NOP-Out and the data that comes back."""
        itt = self.tag()
        connection = on or self.connection
        connection.send(self.number(p.nop_out(itt, data=data)))
        return connection.receive_until(lambda got: got.itt == itt)[0].data

    def text(self, keys: Keys) -> dict[str, str]:
        """A text request of one PDU and the keys of its answer, however many PDUs it has."""
        itt = self.tag()
        self.connection.send(self.number(p.text_request(itt, encode_keys(keys))))
        gathered = b""
        while True:
            response, _ = self.connection.receive_until(lambda got: got.itt == itt)
            assert response.opcode == Opcode.TEXT_RESPONSE, str(response)
            gathered += response.data
            if response.final:
                return decode_keys(gathered)
            more = p.text_request(itt, b"", ttt=response.ttt)
            self.connection.send(self.number(more))

    def targets(self, which: str = "All") -> list[tuple[str, Sequence[str]]]:
        """SendTargets (appendix C): each target's name and its portals."""
        itt = self.tag()
        self.connection.send(self.number(p.text_request(itt, encode_keys({"SendTargets": which}))))
        gathered = b""
        while True:
            response, _ = self.connection.receive_until(lambda got: got.itt == itt)
            gathered += response.data
            if response.final:
                break
            self.connection.send(self.number(p.text_request(itt, b"", ttt=response.ttt)))
        found: list[tuple[str, list[str]]] = []
        for part in gathered.decode().split("\0"):
            key, _, value = part.partition("=")
            if key == "TargetName":
                found.append((value, []))
            elif key == "TargetAddress":
                found[-1][1].append(value)
        return list(found)

    def logout(self, reason: int = 0, cid: int = 0, on: Connection | None = None) -> int:
        """A logout; its response (11.15.1)."""
        return self.logged_out(self.start_logout(reason, cid, on), on)

    def start_logout(self, reason: int = 0, cid: int = 0, on: Connection | None = None) -> int:
        itt = self.tag()
        (on or self.connection).send(self.number(p.logout_request(itt, reason, cid)))
        return itt

    def logged_out(self, itt: int, on: Connection | None = None) -> int:
        return (on or self.connection).receive_until(lambda got: got.itt == itt)[0].response

    def close(self) -> None:
        """Closes the connections without a logout."""
        for connection in self.connections:
            connection.close()

    def __enter__(self) -> Self:
        return self if self.connections else self.login()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            # a test may have left the session in any state
            with contextlib.suppress(OSError, Closed, TimeoutError):
                self.logout()
        self.close()
