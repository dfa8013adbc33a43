//! iSCSI sessions and NBD connections of one shard have their room for data together.

mod support;

use std::net::TcpListener;
use std::os::fd::AsRawFd;

use _engine::shard::control::{Protocol, Then};
use _engine::shard::engine::Transmit;
use _engine::shard::events::Event;
use support::iscsi::*;
use support::*;

const MIB: u64 = 1 << 20;

/// An NBD client of the target's volume.
fn nbd_client(target: &Target) -> Client {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    target.engine.add_listener(listener.as_raw_fd(), "nbd", Protocol::Nbd).unwrap();
    let mut client = Client::raw(listener.local_addr().unwrap(), SIMPLE);
    let accepted = target.wait_event(|event| matches!(event, Event::Accepted { .. }));
    let Event::Accepted { conn, .. } = accepted else { unreachable!() };
    target.engine.reply(conn, b"hello".to_vec(), Then::Option);
    client.expect(b"hello");
    client.send(&3u32.to_be_bytes());
    target.wait_event(|event| matches!(event, Event::ClientFlags { .. }));
    target.engine.reply(conn, vec![], Then::Option);
    client.send(&Client::option(1, b""));
    target.wait_event(|event| matches!(event, Event::NbdOption { .. }));
    let how = Transmit {
        volume: target.volume,
        export: "export".into(),
        read_only: false,
        structured: false,
        extended: false,
        contexts: vec![],
        minimum_block: 1,
    };
    target.engine.transmit(conn, b"go".to_vec(), how).unwrap();
    client.expect(b"go");
    client
}

/// An R2T that is not answered.
fn announce(holder: &mut Initiator) -> Pdu {
    let bhs = holder.command(0xa1, 256 << 10, write10(0, 512));
    holder.send(bhs, &[]);
    let r2t = holder.recv();
    assert_eq!((r2t.opcode(), r2t.itt()), (0x31, itt(bhs)));
    r2t
}

#[test]
fn room_that_is_promised_to_those_who_send_nothing_does_not_hold_up_nbd() {
    let data = pattern(1, 1 << 20);
    // Both are longer than what is received at once; the second one is collected in pieces.
    for len in [256 << 10, 1 << 20] {
        with_image(&[("shard_hard_bytes", 8 << 20)], 16 * MIB, |target| {
            // All that may be collected: a quarter of what the shard has.
            let mut holder = target.login(&Agreed::session(1));
            let r2ts: Vec<Pdu> = (0..8).map(|_| announce(&mut holder)).collect();
            assert_eq!(nbd_client(target).write(0, 0, &data[..len]), 0);
            // It needs no promise, so nobody gave way.
            let late = |r2t: Pdu| {
                holder.data_out(r2t.itt(), r2t.word(20), 0, 0, true, &data[..256 << 10]);
                holder.answer(r2t.itt()).1.status()
            };
            let statuses: Vec<u8> = r2ts.into_iter().map(late).collect();
            assert_eq!(statuses, [0; 8]);
        });
    }
}
