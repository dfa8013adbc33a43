//! STARTTLS with certificates and with pre-shared keys, TLS 1.2 and 1.3, and everything over it.

mod support;

use std::net::TcpStream;

use _engine::shard::events::Event;
use _engine::shard::tls_config::{TlsConfig, TlsSettings};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslStream, SslVerifyMode, SslVersion};
use openssl::x509::extension::BasicConstraints;
use openssl::x509::{X509NameBuilder, X509};
use support::*;

const MIB: u64 = 1 << 20;
const KEY: [u8; 32] = [0x5a; 32];

struct Pair {
    cert: X509,
    key: PKey<Private>,
}

/// A certificate for `name`, signed by `issuer`, or by itself.
fn certificate(name: &str, issuer: Option<&Pair>) -> Pair {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(name.len() as u32).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(issuer.map_or(&*subject, |issuer| issuer.cert.subject_name())).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.set_pubkey(&key).unwrap();
    if issuer.is_none() {
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    }
    builder.sign(issuer.map_or(&key, |issuer| &issuer.key), MessageDigest::sha256()).unwrap();
    Pair { cert: builder.build(), key }
}

struct Certs {
    ca: Pair,
    server: Pair,
    alice: Pair,
}

fn certs() -> Certs {
    let ca = certificate("ca", None);
    Certs { server: certificate("server", Some(&ca)), alice: certificate("alice", Some(&ca)), ca }
}

fn with_certs(certs: &Certs, verify_client: bool) -> TlsSettings {
    TlsSettings {
        cert_chain_pem: Some(certs.server.cert.to_pem().unwrap()),
        key_pem: Some(certs.server.key.private_key_to_pem_pkcs8().unwrap()),
        ca_pem: Some(certs.ca.cert.to_pem().unwrap()),
        verify_client,
        psk: Default::default(),
    }
}

fn with_key(mut settings: TlsSettings) -> TlsSettings {
    settings.psk.insert("bob".into(), KEY.to_vec());
    settings
}

fn client_with_cert(certs: &Certs, own: Option<&Pair>) -> SslContextBuilder {
    let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
    builder.cert_store_mut().add_cert(certs.ca.cert.clone()).unwrap();
    builder.set_verify(SslVerifyMode::PEER);
    if let Some(own) = own {
        builder.set_certificate(&own.cert).unwrap();
        builder.set_private_key(&own.key).unwrap();
    }
    builder
}

fn client_with_key(user: &'static str, key: [u8; 32]) -> SslContextBuilder {
    let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
    builder.set_cipher_list("PSK").unwrap();
    // Whoever shows no key must not get in by another way.
    builder.set_verify(SslVerifyMode::PEER);
    builder.set_psk_client_callback(move |_, _, identity, place| -> Result<usize, ErrorStack> {
        identity[..user.len()].copy_from_slice(user.as_bytes());
        identity[user.len()] = 0;
        place[..32].copy_from_slice(&key);
        Ok(32)
    });
    builder
}

/// STARTTLS, then the TLS handshake, then transmission; `Err`: TLS did not come about.
fn connect(server: &Server, mode: Mode, context: SslContextBuilder) -> Result<Client<SslStream<TcpStream>>, String> {
    let mut client = Client::raw(server.address, mode);
    client.expect(b"hello");
    client.send(&3u32.to_be_bytes());
    client.send(&Client::option(5, b""));
    client.expect(b"tls");
    let ssl = Ssl::new(&context.build()).unwrap();
    let stream = ssl.connect(client.stream).map_err(|error| error.to_string())?;
    let mut client = Client { stream, mode };
    server.set_mode(mode);
    client.send(&Client::option(1, b""));
    let mut go = [0; 2];
    std::io::Read::read_exact(&mut client.stream, &mut go).map_err(|error| error.to_string())?;
    assert_eq!(&go, b"go");
    Ok(client)
}

fn use_it(server: &Server, client: &mut Client<SslStream<TcpStream>>) {
    for (offset, len) in [(0, 10), (5, 4096), (MIB, 200_000), (2 * MIB, 3 * MIB as usize + 1)] {
        let data = pattern(offset, len);
        assert_eq!(client.write(0, offset, &data), 0);
        assert_eq!(client.read(0, offset, len as u64).unwrap(), data, "{offset}+{len}");
    }
    // Many in flight, so that replies share records and sends are cut short.
    let bytes: Vec<u8> = (0..64u64).flat_map(|cookie| client.request(0, 0, cookie, cookie << 10, 100_000)).collect();
    client.send(&bytes);
    for _ in 0..64 {
        let chunk = client.reply(100_000);
        let head = if chunk.kind.is_some() { 8 } else { 0 };
        assert_eq!(chunk.payload.len(), 100_000 + head);
    }
    client.send(&client.request(2, 0, 0, 0, 0));
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut client.stream, &mut rest);
    assert!(rest.is_empty());
    assert_eq!(server.wait_lost(), "disconnected by the client");
}

fn identity(server: &Server) -> (String, &'static str) {
    match server.wait_event(|event| matches!(event, Event::TlsEstablished { .. })) {
        Event::TlsEstablished { identity, kind, .. } => (identity, kind),
        _ => unreachable!(),
    }
}

fn on_all(settings: impl Fn() -> TlsSettings, test: impl Fn(&Server)) {
    for path in paths() {
        let image = Image::new(8 * MIB);
        let server = Server::start(path, &[], &image);
        server.engine.set_tls(Some(TlsConfig::new(settings()).unwrap()));
        test(&server);
    }
}

#[test]
fn certificates_carry_everything_in_both_versions() {
    let certs = certs();
    on_all(
        || with_certs(&certs, true),
        |server| {
            for (version, mode) in [(SslVersion::TLS1_2, SIMPLE), (SslVersion::TLS1_3, STRUCTURED)] {
                let mut context = client_with_cert(&certs, Some(&certs.alice));
                context.set_max_proto_version(Some(version)).unwrap();
                let mut client = connect(server, mode, context).unwrap();
                assert_eq!(identity(server), ("alice".into(), "x509"));
                assert!(server.engine.sessions()[0].tls.starts_with("TLSv1."));
                use_it(server, &mut client);
            }
        },
    );
}

#[test]
fn a_client_without_the_certificate_that_is_asked_for_stays_out() {
    let certs = certs();
    let strangers = certificate("other ca", None);
    let stranger = certificate("alice", Some(&strangers));
    on_all(
        || with_certs(&certs, true),
        |server| {
            assert!(connect(server, SIMPLE, client_with_cert(&certs, None)).is_err());
            assert!(connect(server, SIMPLE, client_with_cert(&certs, Some(&stranger))).is_err());
            let mut old = client_with_cert(&certs, Some(&certs.alice));
            old.set_max_proto_version(Some(SslVersion::TLS1_1)).unwrap();
            assert!(connect(server, SIMPLE, old).is_err());
            for _ in 0..3 {
                assert!(server.wait_lost().contains("TLS"));
            }
        },
    );
}

#[test]
fn without_verification_clients_need_none() {
    let certs = certs();
    on_all(
        || with_certs(&certs, false),
        |server| {
            let mut client = connect(server, SIMPLE, client_with_cert(&certs, None)).unwrap();
            assert_eq!(identity(server), (String::new(), "x509"));
            use_it(server, &mut client);
        },
    );
}

#[test]
fn keys_work_alone_and_beside_certificates() {
    let certs = certs();
    let settings: [&dyn Fn() -> TlsSettings; 3] =
        [&|| with_key(TlsSettings::default()), &|| with_key(with_certs(&certs, false)), &|| {
            with_key(with_certs(&certs, true))
        }];
    for settings in settings {
        on_all(settings, |server| {
            for (version, mode) in [(SslVersion::TLS1_2, SIMPLE), (SslVersion::TLS1_3, EXTENDED)] {
                let mut context = client_with_key("bob", KEY);
                context.set_max_proto_version(Some(version)).unwrap();
                let mut client = connect(server, mode, context).unwrap();
                assert_eq!(identity(server), ("bob".into(), "psk"));
                use_it(server, &mut client);
            }
            assert!(connect(server, SIMPLE, client_with_key("bob", [1; 32])).is_err(), "a wrong key");
            assert!(connect(server, SIMPLE, client_with_key("eve", KEY)).is_err(), "an unknown user");
        });
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let certs = certs();
    assert!(TlsConfig::new(TlsSettings::default()).is_err());
    assert!(TlsConfig::new(TlsSettings { key_pem: None, ..with_certs(&certs, false) }).is_err());
    assert!(TlsConfig::new(TlsSettings { ca_pem: None, ..with_certs(&certs, true) }).is_err());
    let other = certs.alice.key.private_key_to_pem_pkcs8().unwrap();
    assert!(TlsConfig::new(TlsSettings { key_pem: Some(other), ..with_certs(&certs, false) }).is_err());
    assert!(
        TlsConfig::new(TlsSettings { cert_chain_pem: Some(b"no PEM".to_vec()), ..with_certs(&certs, false) }).is_err()
    );
}
