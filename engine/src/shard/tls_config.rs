//! Who may speak TLS with us, and how: certificates, pre-shared keys, or both.

use std::collections::HashMap;
use std::sync::OnceLock;

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::ssl::{
    Ssl, SslContext, SslMethod, SslMode, SslOptions, SslRef, SslSessionCacheMode, SslVerifyMode, SslVersion,
};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::X509;

/// What Python sets. Absent parts are not offered.
#[derive(Default)]
pub struct TlsSettings {
    /// The server's certificate, then the intermediate ones.
    pub cert_chain_pem: Option<Vec<u8>>,
    pub key_pem: Option<Vec<u8>>,
    /// Whose client certificates are accepted.
    pub ca_pem: Option<Vec<u8>>,
    /// Clients must show a certificate.
    pub verify_client: bool,
    /// User -> key.
    pub psk: HashMap<String, Vec<u8>>,
}

/// Ready for handshakes; immutable, replaced as a whole.
pub struct TlsConfig(SslContext);

/// Why settings cannot be used.
#[derive(Debug)]
pub enum BadTls {
    /// In our words.
    Settings(&'static str),
    /// In OpenSSL's.
    OpenSsl(String),
}

impl std::fmt::Display for BadTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadTls::Settings(why) => f.write_str(why),
            BadTls::OpenSsl(why) => f.write_str(why),
        }
    }
}

impl From<ErrorStack> for BadTls {
    fn from(stack: ErrorStack) -> Self {
        let reason = stack.errors().first().and_then(|error| error.reason()).unwrap_or("no reason given");
        BadTls::OpenSsl(format!("OpenSSL: {reason}"))
    }
}

/// Where a handshake leaves the name of the key's owner: TLS 1.3 keeps it nowhere else.
fn user_index() -> Index<Ssl, String> {
    static INDEX: OnceLock<Index<Ssl, String>> = OnceLock::new();
    *INDEX.get_or_init(|| Ssl::new_ex_index().expect("OpenSSL gives indexes out until memory ends"))
}

impl TlsConfig {
    /// Checks the settings and makes a context: TLS 1.2 at least, no renegotiation, no resumption
    /// (every connection proves itself anew).
    pub fn new(settings: TlsSettings) -> Result<Self, BadTls> {
        let with_cert = settings.cert_chain_pem.is_some();
        if !with_cert && settings.psk.is_empty() {
            return Err(BadTls::Settings("TLS needs a certificate or pre-shared keys"));
        }
        let mut builder = SslContext::builder(SslMethod::tls_server())?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        builder
            .set_options(SslOptions::NO_RENEGOTIATION | SslOptions::NO_TICKET | SslOptions::CIPHER_SERVER_PREFERENCE);
        builder.set_session_cache_mode(SslSessionCacheMode::OFF);
        // A pre-shared key counts as a session in TLS 1.3, and one without a context is refused where
        // clients are verified.
        builder.set_session_id_context(b"blockgate")?;
        builder.set_num_tickets(0)?;
        // An idle connection holds no record buffers.
        builder.set_mode(SslMode::RELEASE_BUFFERS);
        builder.set_cipher_list(if settings.psk.is_empty() { CERT_SUITES } else { PSK_SUITES })?;
        if let Some(chain) = &settings.cert_chain_pem {
            let key = settings.key_pem.as_ref().ok_or(BadTls::Settings("a certificate needs its key"))?;
            use_chain(&mut builder, chain, key)?;
        }
        if settings.verify_client {
            let ca = settings.ca_pem.as_ref();
            let ca = ca.ok_or(BadTls::Settings("verifying clients needs a CA certificate"))?;
            verify_clients(&mut builder, ca)?;
        }
        if !settings.psk.is_empty() {
            // OpenSSL binds a key that a callback gives to SHA-256; with another suite chosen it would
            // ignore the key and ask for a certificate. So those suites come first.
            builder.set_ciphersuites("TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384")?;
            use_keys(&mut builder, settings.psk);
        }
        Ok(Self(builder.build()))
    }

    pub(super) fn context(&self) -> &SslContext {
        &self.0
    }
}

/// Suites for TLS 1.2.
const CERT_SUITES: &str = "HIGH:!aNULL:!eNULL:!PSK:!SRP:!kRSA";
const PSK_SUITES: &str = "HIGH:!aNULL:!eNULL:!SRP:!kRSA:!kRSAPSK";

type Builder = openssl::ssl::SslContextBuilder;

fn use_chain(builder: &mut Builder, chain: &[u8], key: &[u8]) -> Result<(), BadTls> {
    let mut certs = X509::stack_from_pem(chain)?.into_iter();
    let leaf = certs.next().ok_or(BadTls::Settings("the certificate file holds no certificate"))?;
    builder.set_certificate(&leaf)?;
    for cert in certs {
        builder.add_extra_chain_cert(cert)?;
    }
    // A passphrase callback that has none: OpenSSL must not ask the terminal.
    let key = PKey::private_key_from_pem_callback(key, |_| Ok(0))?;
    builder.set_private_key(&key)?;
    builder.check_private_key()?;
    Ok(())
}

fn verify_clients(builder: &mut Builder, ca: &[u8]) -> Result<(), BadTls> {
    let mut store = X509StoreBuilder::new()?;
    let certs = X509::stack_from_pem(ca)?;
    if certs.is_empty() {
        return Err(BadTls::Settings("the CA file holds no certificate"));
    }
    for cert in certs {
        builder.add_client_ca(&cert)?;
        store.add_cert(cert)?;
    }
    builder.set_cert_store(store.build());
    builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    Ok(())
}

fn use_keys(builder: &mut Builder, keys: HashMap<String, Vec<u8>>) {
    let index = user_index();
    builder.set_psk_server_callback(move |ssl, user, place| {
        // No such user, or no room: no key, and OpenSSL breaks the handshake off.
        let Some(user) = user.and_then(|user| std::str::from_utf8(user).ok()) else { return Ok(0) };
        let Some(key) = keys.get(user).filter(|key| key.len() <= place.len()) else { return Ok(0) };
        place[..key.len()].copy_from_slice(key);
        ssl.set_ex_data(index, user.to_owned());
        Ok(key.len())
    });
}

/// Who the peer of a finished handshake is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user of the pre-shared key, or the common name of the client's certificate, or "".
    pub name: String,
    /// "psk" or "x509".
    pub kind: &'static str,
}

impl Identity {
    pub(super) fn of(ssl: &SslRef) -> Self {
        if let Some(user) = ssl.ex_data(user_index()) {
            return Self { name: user.clone(), kind: "psk" };
        }
        let name = ssl.peer_certificate().and_then(|cert| {
            let entry = cert.subject_name().entries_by_nid(Nid::COMMONNAME).next()?;
            entry.data().to_string().ok()
        });
        Self { name: name.unwrap_or_default(), kind: "x509" }
    }
}
