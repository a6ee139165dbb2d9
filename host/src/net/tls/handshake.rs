//! One handshake, from the first byte to what is known of the client.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use rustls::server::{Acceptor, ServerConnection};
use rustls::{AlertDescription, CertificateError, CipherSuite, Error, PeerIncompatible, ProtocolVersion};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::X509Certificate;

use super::{Certificates, ClientAuth, TlsProfile};
use crate::message::{ClientCertificate, TlsClient};
use crate::net::{HandshakeFailure, Stream, Transport};

/// Most bytes of a hello, records' heads included: 32 KiB. A hello with the
/// largest key shares in use takes under 4 KiB, in records of one byte each
/// 24 KiB.
pub const HELLO_BYTES_MAX: u32 = 32 << 10;
/// Bytes that may wait in a session for a client that does not read.
const SENDABLE_BYTES_MAX: usize = 32 << 10;

/// A connection after its handshake.
#[derive(Debug)]
pub struct Secured {
    /// The bytes.
    pub stream: Stream,
    /// What the handshake told.
    pub client: TlsClient,
    /// The rule for client certificates it was made under.
    pub rule: Option<Arc<ClientAuth>>,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
#[error("TLS handshake failed ({reason}): {detail}")]
pub struct HandshakeError {
    /// The reason to count and log.
    pub reason: HandshakeFailure,
    /// For people. Has nothing secret in it.
    pub detail: String,
    /// The server name asked for, when the hello came that far.
    pub sni: Option<Box<str>>,
}

impl HandshakeError {
    fn new(reason: HandshakeFailure, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), sni: None }
    }
}

/// Does the handshake of a connection, bytes in `replay` first, within `timeout`.
///
/// The certificates are loaded when the hello is there, not before: a client
/// that is slow to say it gets those of that moment.
///
/// # Errors
/// Told by reason. The client has had an alert where TLS has one.
pub async fn accept(
    tcp: TcpStream,
    replay: Bytes,
    profile: &TlsProfile,
    certificates: impl FnOnce() -> Arc<Certificates>,
    timeout: Duration,
) -> Result<Secured, HandshakeError> {
    let handshake = handshake(Transport::new(tcp, replay), profile, certificates);
    tokio::time::timeout(timeout, handshake).await.unwrap_or_else(|_| {
        Err(HandshakeError::new(HandshakeFailure::Timeout, format!("not done within {timeout:?}")))
    })
}

async fn handshake(
    mut transport: Transport,
    profile: &TlsProfile,
    certificates: impl FnOnce() -> Arc<Certificates>,
) -> Result<Secured, HandshakeError> {
    transport.limit_read(Some(HELLO_BYTES_MAX));
    let acceptor = LazyConfigAcceptor::new(Acceptor::default(), transport);
    let mut start = acceptor.await.map_err(|error| failure(&error, HandshakeStage::Hello))?;
    start.io.limit_read(None);

    let sni: Option<Box<str>> =
        start.client_hello().server_name().map(|name| name.to_ascii_lowercase().into());
    let chosen = {
        let certificates = certificates();
        let fallback = profile.fallback_name.as_deref();
        let entry = certificates.choose(&start.client_hello(), fallback).cloned();
        entry.map(|entry| (entry.config(profile), entry.client_rule(profile).cloned()))
    };
    let Some((config, rule)) = chosen else {
        send_alert(&mut start.io, AlertDescription::UnrecognisedName).await;
        return Err(match sni {
            None => HandshakeError::new(
                HandshakeFailure::NoServerName,
                "no server name asked for, and no fallback certificate",
            ),
            Some(_) => HandshakeError {
                reason: HandshakeFailure::UnknownServerName,
                detail: "no certificate for the server name".to_owned(),
                sni,
            },
        });
    };
    let Some(config) = config else {
        send_alert(&mut start.io, AlertDescription::ProtocolVersion).await;
        let detail = "the listener and the ssls object have no TLS version in common";
        return Err(HandshakeError { reason: HandshakeFailure::Version, detail: detail.to_owned(), sni });
    };
    let accepting =
        start.into_stream_with(config, |session| session.set_buffer_limit(Some(SENDABLE_BYTES_MAX)));
    let stream = match accepting.await {
        Ok(stream) => stream,
        Err(error) => return Err(HandshakeError { sni, ..failure(&error, HandshakeStage::Keys) }),
    };
    let client = match describe(stream.get_ref().1, sni.clone()) {
        Ok(client) => client,
        Err(error) => {
            return Err(HandshakeError { sni, ..refuse(stream, error).await });
        }
    };
    Ok(Secured { stream: Stream::ServerTls(Box::new(stream)), client, rule })
}

/// An alert before any key is agreed on is one plain record. Whether it still
/// arrives makes no difference.
async fn send_alert(transport: &mut Transport, alert: AlertDescription) {
    let record = [21, 3, 3, 0, 2, 2, u8::from(alert)];
    let _ = transport.write_all(&record).await;
    let _ = transport.shutdown().await;
}

async fn refuse(mut stream: TlsStream<Transport>, error: HandshakeError) -> HandshakeError {
    let _ = stream.shutdown().await;
    error
}

/// What a finished handshake tells of the client.
fn describe(session: &ServerConnection, sni: Option<Box<str>>) -> Result<TlsClient, HandshakeError> {
    let certificate = match session.peer_certificates().and_then(<[_]>::first) {
        None => None,
        Some(der) => Some(client_certificate(der)?),
    };
    Ok(TlsClient {
        sni,
        alpn: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into()),
        version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        },
        cipher: session.negotiated_cipher_suite().map_or("", |suite| cipher_name(suite.suite())),
        resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        certificate,
    })
}

fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}

fn client_certificate(der: &[u8]) -> Result<ClientCertificate, HandshakeError> {
    let parsed = x509_parser::parse_x509_certificate(der);
    let (_, parsed): (_, X509Certificate<'_>) = parsed.map_err(|error| {
        HandshakeError::new(HandshakeFailure::BadClientCertificate, format!("not X.509: {error}"))
    })?;
    // A resumed session brings its certificate along unverified: it may have
    // expired since.
    if !parsed.validity().is_valid() {
        return Err(HandshakeError::new(
            HandshakeFailure::ExpiredClientCertificate,
            format!("client certificate is valid until {}", parsed.validity().not_after),
        ));
    }
    Ok(ClientCertificate {
        subject: parsed.subject().to_string().into(),
        issuer: parsed.issuer().to_string().into(),
        serial: hex(parsed.raw_serial()),
        fingerprint: hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der).as_ref()),
    })
}

fn hex(bytes: &[u8]) -> Box<str> {
    HEXLOWER.encode(bytes).into()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HandshakeStage {
    Hello,
    Keys,
}

fn failure(error: &io::Error, stage: HandshakeStage) -> HandshakeError {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let reason = match (cause, error.kind()) {
        (Some(cause), _) => reason_of(cause, stage),
        (None, io::ErrorKind::UnexpectedEof) => HandshakeFailure::Closed,
        (None, io::ErrorKind::FileTooLarge) => {
            return HandshakeError::new(
                HandshakeFailure::HelloTooLarge,
                format!("hello is over {HELLO_BYTES_MAX} bytes"),
            );
        }
        (None, io::ErrorKind::InvalidData) => HandshakeFailure::Protocol,
        (None, _) => HandshakeFailure::Socket,
    };
    HandshakeError::new(reason, error.to_string())
}

fn reason_of(error: &Error, stage: HandshakeStage) -> HandshakeFailure {
    match error {
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } if stage == HandshakeStage::Hello => {
            HandshakeFailure::NotTls
        }
        Error::NoCertificatesPresented => HandshakeFailure::NoClientCertificate,
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => HandshakeFailure::ExpiredClientCertificate,
        Error::InvalidCertificate(_) => HandshakeFailure::BadClientCertificate,
        Error::NoApplicationProtocol => HandshakeFailure::Alpn,
        Error::AlertReceived(_) => HandshakeFailure::Alert,
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => HandshakeFailure::Version,
        Error::PeerIncompatible(_) => HandshakeFailure::Cipher,
        _ => HandshakeFailure::Protocol,
    }
}
