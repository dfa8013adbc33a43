//! Every bound that a peer, or a slow back end, can run into: named, and in one place.

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $default:expr, $min:expr, $max:expr;)*) => {
        /// The engine's bounds. Durations end in `_ms`, sizes in `_bytes`; the rest are counts.
        #[derive(Clone, Debug, Eq, PartialEq)]
        pub struct Limits { $($(#[$doc])* pub $name: u64,)* }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Limits {
            /// Sets one limit by its field's name; says what is wrong when it cannot be.
            pub fn set(&mut self, name: &str, value: u64) -> Result<(), String> {
                match name {
                    $(stringify!($name) => {
                        let range: std::ops::RangeInclusive<u64> = $min..=$max;
                        if !range.contains(&value) {
                            return Err(format!(
                                "limit {name} must lie between {} and {}, not {value}",
                                range.start(), range.end()
                            ));
                        }
                        self.$name = value;
                        Ok(())
                    })*
                    _ => Err(format!("no such limit: {name}")),
                }
            }

            /// All limits as (name, value), in the order of their declaration.
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

limits! {
    /// Connections of the whole engine; further ones are accepted and closed at once.
    connections: 12_000, 1, 1_000_000;
    /// Requests (and pieces of large requests) in flight on one shard.
    tasks_per_shard: 16_384, 64, 1 << 20;
    /// Requests in flight on one connection; it is not read further above.
    tasks_per_connection: 256, 1, 16_384;
    /// Buffer bytes that one connection may hold for requests in flight and replies not sent.
    connection_bytes: 2 << 20, 512 << 10, 1 << 30;
    /// Buffer bytes of one shard above which a connection may hold one piece only.
    shard_soft_bytes: 128 << 20, 4 << 20, 1 << 40;
    /// Buffer bytes of one shard above which no further request is started.
    shard_hard_bytes: 512 << 20, 8 << 20, 1 << 40;
    /// Free buffer bytes that one shard keeps for reuse.
    shard_kept_bytes: 8 << 20, 0, 1 << 40;
    /// Longest option payload that is handed to Python; longer ones are skipped.
    option_bytes: 64 << 10, 4 << 10, 1 << 20;
    /// Longest option payload that is skipped politely; a longer one closes the connection.
    option_skip_bytes: 1 << 20, 64 << 10, 64 << 20;
    /// Bytes of answers that Python may queue for one connection in its handshake.
    handshake_reply_bytes: 16 << 20, 64 << 10, 1 << 30;
    /// Longest READ or WRITE payload (NBD_INFO_BLOCK_SIZE's maximum payload).
    payload_bytes: 32 << 20, 1 << 20, 1 << 31;
    /// Longest payload of a refused WRITE that is skipped; a longer one closes the connection.
    payload_skip_bytes: 64 << 20, 1 << 20, 1 << 32;
    /// Longest data segment of a Login Request (RFC 7143 6.1: MaxRecvDataSegmentLength is 8192 until negotiated).
    login_data_bytes: 8 << 10, 512, 64 << 10;
    /// Longest data segment of a PDU that a target may declare (MaxRecvDataSegmentLength).
    pdu_data_bytes: 1 << 20, 8 << 10, (1 << 24) - 1;
    /// Longest data segment of a Text Request.
    text_bytes: 64 << 10, 512, 1 << 20;
    /// Longest ping data that is sent back in any case; longer data is where there is room for it, else the ping goes
    /// back without.
    ping_bytes: 64 << 10, 0, 1 << 20;
    /// Buffer bytes that one iSCSI session may hold for commands in flight and replies not sent; as many again for
    /// the first bursts that its window promises to take.
    session_bytes: 8 << 20, 512 << 10, 1 << 30;
    /// Commands of one iSCSI session that have not ended, immediate ones included.
    commands_per_session: 512, 16, crate::iscsi::TTT_SLOTS;
    /// Immediate commands of one iSCSI session that have not ended.
    immediate_commands: 32, 1, 512;
    /// Commands of one nexus that Python has; more wait.
    handed_up_per_nexus: 64, 1, 4096;
    /// Task management functions of one session that Python has; more are rejected.
    managements_per_session: 16, 1, 256;
    /// Time that Python has to take a command that is handed up; then the session is closed.
    handed_up_ms: 120_000, 10, 86_400_000;
    /// Time for a whole login.
    login_total_ms: 60_000, 10, 86_400_000;
    /// Data that was asked for (R2T) and does not come for this long: closed.
    solicited_ms: 60_000, 10, 3_600_000;
    /// Data that was asked for, or announced, and of which nothing comes for this long gives its room to others that
    /// want it, on a shard that has no more: its command ends then, TASK SET FULL.
    silent_data_ms: 250, 1, 3_600_000;
    /// Time for each step of the handshake: from one answer to the client's next complete option,
    /// or to the end of TLS.
    handshake_ms: 10_000, 10, 3_600_000;
    /// Time for the whole handshake (a client that lists many exports keeps it open meanwhile).
    handshake_total_ms: 600_000, 10, 86_400_000;
    /// Half a request (header or payload) without a further byte for this long: closed.
    receive_stall_ms: 30_000, 10, 3_600_000;
    /// Replies waiting without a byte leaving for this long: closed.
    send_stall_ms: 30_000, 10, 3_600_000;
    /// Time for a connection that ends (after DISC, or told to close) to be rid of its last bytes.
    linger_ms: 5_000, 10, 3_600_000;
    /// Pause of a listener after accept ran out of descriptors or memory.
    accept_pause_ms: 100, 1, 60_000;
}

/// The longest piece that a large request is executed in; also the largest buffer, in bytes.
pub const PIECE_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_set_by_name_within_their_range() {
        let mut limits = Limits::default();
        limits.set("connections", 7).unwrap();
        assert_eq!(limits.connections, 7);
        assert!(limits.set("connections", 0).unwrap_err().contains("between 1 and"));
        assert!(limits.set("conections", 1).unwrap_err().contains("no such limit"));
        assert!(limits.entries().contains(&("connections", 7)));
    }
}
