"""The option phase of fixed newstyle, one :class:`Handshake` per connection.

Values in, bytes and a decision out: no socket, clock or thread. Whoever owns the connection calls
``greeting`` once, then one method for each thing that the client did, and carries out the
:class:`Answer`: send its bytes, then do what ``next`` says. What the gateway offers comes with
every call as an :class:`ExportDirectory`, so that a change of exports is seen by the next option.

::

    greeting -> client_flags -> option* -> TRANSMIT | CLOSE
                                  ^  | STARTTLS
                                  |  v
                             tls_established

Nothing that a client sends raises: a mistake is answered as the protocol's text says, or, where the
text leaves no other way, by closing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from blockgate.nbd import metacontexts, wire
from blockgate.nbd.constants import ClientFlag, HandshakeFlag, Info, Option, Rep, TransmissionFlag
from blockgate.nbd.exports import ExportDirectory, ExportView
from blockgate.nbd.flags import transmission_flags
from blockgate.nbd.peers import Peer
from blockgate.nbd.wire import MalformedError, TooBigError

# "If a server believes a client's behaviour constitutes a denial of service, it MAY initiate a
# hard disconnect": a client that asks about every export, as `nbdinfo --list` does with two options
# each and `qemu-nbd --list` with three, stays below these.
OPTION_LIMIT: Final = 1024
OPTION_LIMIT_PER_EXPORT: Final = 8
QUERY_LIMIT: Final = 256

_KNOWN_CLIENT_FLAGS: Final = ClientFlag.NBD_FLAG_C_FIXED_NEWSTYLE | ClientFlag.NBD_FLAG_C_NO_ZEROES


class Next(Enum):
    """What the owner of the connection does after it has sent an answer's bytes."""

    OPTION = "option"  # wait for the client: its flags first, then options
    TLS = "tls"  # become a TLS server, then call tls_established
    CLOSE = "close"  # end the connection once the bytes are out
    TRANSMIT = "transmit"  # hand the connection to the transmission phase


@dataclass(frozen=True, slots=True)
class Transmission:
    """What was agreed on: everything that the transmission phase must know of it.

    ``contexts`` are (id, name) of the selected metadata contexts; ``minimum_block`` is in bytes.
    """

    volume: int
    export: str
    read_only: bool
    structured: bool
    extended: bool
    contexts: tuple[tuple[int, str], ...]
    minimum_block: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes for the client and what comes after them. ``transmission`` stands exactly with
    Next.TRANSMIT. ``note``, where not empty, says for a log why the client was refused."""

    data: bytes
    next: Next
    transmission: Transmission | None = None
    note: str = ""


class TlsMode(Enum):
    """ "Server-side requirements" of "TLS support"; fixed for the life of a connection."""

    NOTLS = auto()
    SELECTIVETLS = auto()
    FORCEDTLS = auto()

    @classmethod
    def of(cls, directory: ExportDirectory) -> TlsMode:
        """Without credentials NOTLS; FORCEDTLS where every export requires TLS."""
        if not directory.tls:
            return cls.NOTLS
        views = directory.exports.values()
        if views and all(view.tls_required for view in views):
            return cls.FORCEDTLS
        return cls.SELECTIVETLS


class _Phase(Enum):
    FLAGS = auto()
    OPTIONS = auto()
    TLS = auto()
    OVER = auto()


@dataclass(slots=True)
class _Negotiated:
    """What options have set up so far; STARTTLS begins anew with an empty one."""

    structured: bool = False
    extended: bool = False
    contexts: tuple[metacontexts.MetaContext, ...] = ()
    contexts_export: str = ""

    def replies_have_payload(self) -> bool:
        return self.structured or self.extended

    def contexts_of(self, export: str) -> tuple[metacontexts.MetaContext, ...]:
        """The selected contexts, if they were selected for this very export."""
        return self.contexts if self.contexts_export == export else ()


class _RefusedError(Exception):
    """An option that gets an error reply. ``before`` are replies that go out ahead of it;
    ``reason`` is for the log, where the client is not to be told."""

    def __init__(self, kind: Rep, text: str, before: bytes = b"", reason: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.before = before
        self.reason = reason or text


class Handshake:
    """The server's side of one connection's handshake."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.secure = False
        self.identity = ""  # whom TLS has shown the client to be, "" if nobody in particular
        self.identity_kind = ""  # "x509" | "psk", "" without TLS
        self._phase = _Phase.FLAGS
        self._mode = TlsMode.NOTLS
        self._no_zeroes = False
        self._fixed = False
        self._options = 0
        self._last_option = 0
        self._negotiated = _Negotiated()

    def greeting(self) -> Answer:
        """The first bytes of the connection ("Newstyle negotiation")."""
        flags = HandshakeFlag.NBD_FLAG_FIXED_NEWSTYLE | HandshakeFlag.NBD_FLAG_NO_ZEROES
        return Answer(wire.greeting(flags), Next.OPTION)

    def client_flags(self, flags: int, directory: ExportDirectory) -> Answer:
        """The client's 32 bits of flags. "The server MUST drop the TCP connection if the client
        sets an unknown flag"; here also settles which TLS mode the connection keeps."""
        if self._phase is not _Phase.FLAGS:
            return self._close("client flags at the wrong time")
        if flags & ~int(_KNOWN_CLIENT_FLAGS):
            return self._close(f"unknown client flags {flags:#010x}")
        self._no_zeroes = bool(flags & ClientFlag.NBD_FLAG_C_NO_ZEROES)
        self._fixed = bool(flags & ClientFlag.NBD_FLAG_C_FIXED_NEWSTYLE)
        if self._fixed:
            # "The server MUST operate in NOTLS mode unless ... fixed newstyle".
            self._mode = TlsMode.of(directory)
        self._phase = _Phase.OPTIONS
        return Answer(b"", Next.OPTION)

    def tls_established(self, identity: str, kind: str) -> Answer:
        """The TLS handshake that Next.TLS asked for has succeeded."""
        if self._phase is not _Phase.TLS:
            return self._close("TLS at the wrong time")
        self.secure = True
        self.identity = identity
        self.identity_kind = kind
        self._phase = _Phase.OPTIONS
        return Answer(b"", Next.OPTION)

    def option(
        self, option: int, data: bytes, directory: ExportDirectory, *, oversize: bool = False
    ) -> Answer:
        """One option. ``oversize``: its data was too long to be kept and has been skipped."""
        if self._phase is not _Phase.OPTIONS:
            return self._close("an option at the wrong time")
        self._options += 1
        limit = OPTION_LIMIT + OPTION_LIMIT_PER_EXPORT * len(directory.exports)
        if self._options > limit:
            return self._close(f"more than {limit} options")
        self._last_option = option
        if option == Option.NBD_OPT_EXPORT_NAME:
            return self._export_name(data, directory, oversize)
        if not self._fixed:
            # "This is the only valid option in nonfixed newstyle negotiation."
            return self._close(f"option {option} without fixed newstyle")
        if option == Option.NBD_OPT_ABORT:
            # Data is ignored rather than rejected ("NBD_OPT_ABORT").
            self._phase = _Phase.OVER
            return Answer(wire.reply(option, Rep.NBD_REP_ACK), Next.CLOSE)
        try:
            return self._haggle(option, data, directory, oversize)
        except MalformedError as error:
            return self._refuse(option, _RefusedError(Rep.NBD_REP_ERR_INVALID, f"{error}"))
        except TooBigError as error:
            return self._refuse(option, _RefusedError(Rep.NBD_REP_ERR_TOO_BIG, f"{error}"))
        except _RefusedError as refused:
            return self._refuse(option, refused)

    def transmission_refused(self, text: str) -> Answer:
        """The owner could not carry out Next.TRANSMIT (the volume has just been closed), and has
        sent nothing of that answer. NBD_OPT_GO can be told; NBD_OPT_EXPORT_NAME cannot."""
        if self._last_option != Option.NBD_OPT_GO:
            return self._close(text)
        self._phase = _Phase.OPTIONS
        return self._refuse(self._last_option, _RefusedError(Rep.NBD_REP_ERR_UNKNOWN, text))

    # The options. Each returns its answer or raises what option() turns into an error reply.

    def _haggle(
        self, option: int, data: bytes, directory: ExportDirectory, oversize: bool
    ) -> Answer:
        if (
            self._mode is TlsMode.FORCEDTLS
            and not self.secure
            and option != Option.NBD_OPT_STARTTLS
        ):
            # "any other option, including NBD_OPT_INFO and unsupported options"
            raise _RefusedError(
                Rep.NBD_REP_ERR_TLS_REQD, "every export requires TLS: begin with it"
            )
        if directory.closing:
            raise _RefusedError(Rep.NBD_REP_ERR_SHUTDOWN, "the gateway is being shut down")
        handler = _HANDLERS.get(option)
        if handler is None:
            raise _RefusedError(Rep.NBD_REP_ERR_UNSUP, f"option {option} is not known here")
        if option in _WITHOUT_DATA and (data or oversize):
            raise MalformedError(f"{Option(option).name} carries no data")
        if oversize:
            if option == Option.NBD_OPT_SET_META_CONTEXT:
                self._forget_contexts()
            raise TooBigError("the option's data is longer than this server takes")
        return handler(self, data, directory)

    def _list(self, data: bytes, directory: ExportDirectory) -> Answer:
        option = Option.NBD_OPT_LIST
        replies = [
            wire.server_reply(option, view.name, view.description)
            for view in directory.listed(self.peer, secure=self.secure)
        ]
        return self._acknowledge(option, b"".join(replies))

    def _start_tls(self, data: bytes, directory: ExportDirectory) -> Answer:
        if self.secure:
            raise _RefusedError(Rep.NBD_REP_ERR_INVALID, "TLS has already been negotiated")
        if self._mode is TlsMode.NOTLS or not directory.tls:
            raise _RefusedError(Rep.NBD_REP_ERR_POLICY, "TLS is not set up on this gateway")
        # "The server MUST NOT preserve any negotiation state issued before this command."
        self._negotiated = _Negotiated()
        self._phase = _Phase.TLS
        return Answer(wire.reply(Option.NBD_OPT_STARTTLS, Rep.NBD_REP_ACK), Next.TLS)

    def _structured_reply(self, data: bytes, directory: ExportDirectory) -> Answer:
        if self._negotiated.extended:
            raise _RefusedError(
                Rep.NBD_REP_ERR_EXT_HEADER_REQD, "extended headers have already been negotiated"
            )
        self._negotiated.structured = True
        return self._acknowledge(Option.NBD_OPT_STRUCTURED_REPLY)

    def _extended_headers(self, data: bytes, directory: ExportDirectory) -> Answer:
        self._negotiated.extended = True
        return self._acknowledge(Option.NBD_OPT_EXTENDED_HEADERS)

    def _list_meta_context(self, data: bytes, directory: ExportDirectory) -> Answer:
        option = Option.NBD_OPT_LIST_META_CONTEXT
        request = self._meta_context_request(data, directory)
        # "The metadata context ID in these replies is reserved and SHOULD be set to zero."
        found = metacontexts.listed(request.queries)
        replies = [wire.meta_context_reply(option, 0, context.name) for context in found]
        return self._acknowledge(option, b"".join(replies))

    def _set_meta_context(self, data: bytes, directory: ExportDirectory) -> Answer:
        option = Option.NBD_OPT_SET_META_CONTEXT
        # "Issuing this command replaces all previously-set metadata contexts (including when
        # this command fails)."
        self._forget_contexts()
        request = self._meta_context_request(data, directory)
        found = metacontexts.selected(request.queries)
        self._negotiated.contexts = found
        self._negotiated.contexts_export = request.export
        replies = [wire.meta_context_reply(option, context.id, context.name) for context in found]
        return self._acknowledge(option, b"".join(replies))

    def _meta_context_request(
        self, data: bytes, directory: ExportDirectory
    ) -> wire.MetaContextRequest:
        request = wire.decode_meta_context_request(data, query_limit=QUERY_LIMIT)
        if not self._negotiated.replies_have_payload():
            raise MalformedError("negotiate structured replies or extended headers first")
        try:
            self._find(request.export, directory)
        except _RefusedError as refused:
            if refused.kind is not Rep.NBD_REP_ERR_TLS_REQD:
                raise
            # SELECTIVETLS: "MUST NOT send NBD_REP_ERR_TLS_REQD in response to any option other
            # than NBD_OPT_INFO, NBD_OPT_GO and NBD_OPT_EXPORT_NAME".
            raise _RefusedError(Rep.NBD_REP_ERR_UNKNOWN, refused.text) from None
        return request

    def _info(self, data: bytes, directory: ExportDirectory) -> Answer:
        return self._describe(Option.NBD_OPT_INFO, data, directory)[0]

    def _go(self, data: bytes, directory: ExportDirectory) -> Answer:
        answer, view = self._describe(Option.NBD_OPT_GO, data, directory)
        return self._transmit(view, answer.data)

    def _describe(
        self, option: Option, data: bytes, directory: ExportDirectory
    ) -> tuple[Answer, ExportView]:
        """What NBD_OPT_INFO and NBD_OPT_GO have in common: all of it but the last step."""
        request = wire.decode_info_request(data)
        view = self._find(request.export, directory)
        sizes = wire.info_block_size(
            option, view.minimum_block, view.preferred_block, view.maximum_payload
        )
        if Info.NBD_INFO_BLOCK_SIZE not in request.wanted and not view.has_default_sizes():
            text = f"export {view.name!r} has a minimum block of {view.minimum_block} bytes"
            raise _RefusedError(
                Rep.NBD_REP_ERR_BLOCK_SIZE_REQD, f"{text}: ask for it", before=sizes
            )
        replies = [wire.info_export(option, view.size, self._flags(view))]
        if Info.NBD_INFO_NAME in request.wanted:
            replies.append(wire.info_text(option, Info.NBD_INFO_NAME, view.name))
        if Info.NBD_INFO_DESCRIPTION in request.wanted and view.description:
            replies.append(wire.info_text(option, Info.NBD_INFO_DESCRIPTION, view.description))
        if Info.NBD_INFO_BLOCK_SIZE in request.wanted:
            replies.append(sizes)
        return self._acknowledge(option, b"".join(replies)), view

    def _export_name(self, data: bytes, directory: ExportDirectory, oversize: bool) -> Answer:
        """NBD_OPT_EXPORT_NAME: its answer has no room for an error, so every refusal closes."""
        try:
            if self._negotiated.extended:
                raise MalformedError("extended headers were negotiated, which need NBD_OPT_GO")
            if oversize:
                raise MalformedError("the export name is too long")
            name = wire.decode_string(data, "export name")
            if directory.closing:
                raise _RefusedError(Rep.NBD_REP_ERR_SHUTDOWN, "the gateway is being shut down")
            view = self._find(name, directory)
            if not view.has_default_sizes():
                raise _RefusedError(
                    Rep.NBD_REP_ERR_BLOCK_SIZE_REQD, "its block sizes need NBD_OPT_GO"
                )
        except (MalformedError, _RefusedError) as error:
            return self._close(f"NBD_OPT_EXPORT_NAME: {error}")
        answer = wire.export_name_answer(view.size, self._flags(view), no_zeroes=self._no_zeroes)
        return self._transmit(view, answer)

    # What the options share.

    def _find(self, name: str, directory: ExportDirectory) -> ExportView:
        """The export of this name, if this client may use it now; else raises _RefusedError."""
        view = directory.get(name)
        before_tls = self._mode is not TlsMode.NOTLS and not self.secure
        hidden = view is not None and not view.admits(self.peer)
        reason = f"export {name!r:.300} does not admit {self.peer.name}" if hidden else ""
        if view is None or hidden:
            if before_tls and any(other.tls_required for other in directory.exports.values()):
                # "so that clients that have not initiated TLS cannot enumerate exports"
                raise _tls_required(name, reason)
            text = f"there is no export {name!r:.300}"
            raise _RefusedError(Rep.NBD_REP_ERR_UNKNOWN, text, reason=reason)
        if view.tls_required and not self.secure:
            if before_tls:
                raise _tls_required(name)
            raise _RefusedError(
                Rep.NBD_REP_ERR_POLICY,
                f"export {name!r} requires TLS, which this connection cannot have",
            )
        if not view.volume:
            raise _RefusedError(
                Rep.NBD_REP_ERR_UNKNOWN, f"the volume of export {name!r} is not open"
            )
        return view

    def _flags(self, view: ExportView) -> TransmissionFlag:
        return transmission_flags(
            view,
            structured=self._negotiated.structured,
            extended=self._negotiated.extended,
            contexts=bool(self._negotiated.contexts_of(view.name)),
        )

    def _forget_contexts(self) -> None:
        self._negotiated.contexts = ()
        self._negotiated.contexts_export = ""

    def _transmit(self, view: ExportView, data: bytes) -> Answer:
        self._phase = _Phase.OVER
        contexts = self._negotiated.contexts_of(view.name)
        agreed = Transmission(
            volume=view.volume,
            export=view.name,
            read_only=view.read_only,
            structured=self._negotiated.structured,
            extended=self._negotiated.extended,
            contexts=tuple((context.id, context.name) for context in contexts),
            minimum_block=view.minimum_block,
        )
        return Answer(data, Next.TRANSMIT, agreed)

    def _acknowledge(self, option: Option, before: bytes = b"") -> Answer:
        return Answer(before + wire.reply(option, Rep.NBD_REP_ACK), Next.OPTION)

    def _refuse(self, option: int, refused: _RefusedError) -> Answer:
        data = refused.before + wire.error_reply(option, refused.kind, refused.text)
        return Answer(data, Next.OPTION, note=f"{refused.kind.name}: {refused.reason}")

    def _close(self, why: str) -> Answer:
        self._phase = _Phase.OVER
        return Answer(b"", Next.CLOSE, note=why)


def _tls_required(name: str, reason: str = "") -> _RefusedError:
    """Says the same of an export that requires TLS and of one that does not exist."""
    text = f"there is no export {name!r:.300} without TLS"
    return _RefusedError(Rep.NBD_REP_ERR_TLS_REQD, text, reason=reason)


_Handler = Callable[[Handshake, bytes, ExportDirectory], Answer]

_HANDLERS: Final[dict[int, _Handler]] = {
    Option.NBD_OPT_LIST: Handshake._list,
    Option.NBD_OPT_STARTTLS: Handshake._start_tls,
    Option.NBD_OPT_INFO: Handshake._info,
    Option.NBD_OPT_GO: Handshake._go,
    Option.NBD_OPT_STRUCTURED_REPLY: Handshake._structured_reply,
    Option.NBD_OPT_LIST_META_CONTEXT: Handshake._list_meta_context,
    Option.NBD_OPT_SET_META_CONTEXT: Handshake._set_meta_context,
    Option.NBD_OPT_EXTENDED_HEADERS: Handshake._extended_headers,
}

# "The client MUST NOT send any additional data with the option, and the server SHOULD reject a
# request that includes data with NBD_REP_ERR_INVALID."
_WITHOUT_DATA: Final = frozenset(
    {
        Option.NBD_OPT_LIST,
        Option.NBD_OPT_STARTTLS,
        Option.NBD_OPT_STRUCTURED_REPLY,
        Option.NBD_OPT_EXTENDED_HEADERS,
    }
)
