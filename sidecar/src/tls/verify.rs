//! The rustls configuration: which authorities, which client certificate, what is verified.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::{SslMode, TlsOptions};
use crate::error::{Error, Kind, Result};

/// The protocol name that PostgreSQL 17 and later agree on; earlier servers do not look at it.
const ALPN: &[u8] = b"postgresql";

/// For a server of any protocol: its certificate comes from an authority of `root_cert`, or is in it, and is for the
/// name by which it is called. Reads the file; blocks.
///
/// # Errors
/// [`Kind::Setup`] with the file that cannot be used.
pub(crate) fn verify_full(root_cert: &Path) -> Result<ClientConfig> {
    let root_cert = Some(root_cert.to_path_buf());
    let options = TlsOptions { mode: SslMode::VerifyFull, root_cert, client_cert: None };
    let mut config = client_config(&options)?;
    config.alpn_protocols.clear();
    Ok(config)
}

/// Reads the files that `options` name; blocks.
///
/// # Errors
/// [`Kind::Setup`] with the file that cannot be used.
pub(super) fn client_config(options: &TlsOptions) -> Result<ClientConfig> {
    let unusable = |error| Error::new(Kind::Setup, "TLS cannot be set up").because(error);
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(options, provider.signature_verification_algorithms)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &options.client_cert {
        Some((cert, key)) => {
            let chain = certificates(cert, "sslcert")?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unreadable("sslkey", key, error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                Error::new(Kind::Setup, "sslcert and sslkey cannot be used together").because(error)
            })?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn unreadable(option: &str, path: &Path, error: rustls::pki_types::pem::Error) -> Error {
    Error::new(Kind::Setup, format!("{option} {} cannot be used", path.display()))
        .because(error)
        .hint("it must be a readable PEM file")
}

fn certificates(path: &Path, option: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read = |error| unreadable(option, path, error);
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(read)?
        .collect::<Result<_, _>>()
        .map_err(read)?;
    if found.is_empty() {
        return Err(read(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn system_authorities() -> Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let mut error = Error::new(Kind::Setup, "the system has no certificate authorities")
            .hint("install ca-certificates, or name a file with sslrootcert");
        if let Some(cause) = found.errors.into_iter().next() {
            error = error.because(cause);
        }
        return Err(error);
    }
    Ok(found.certs)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

/// Verifies as much as libpq would; see the table of the module above.
#[derive(Debug)]
struct Verifier {
    check: Check,
    roots: RootCertStore,
    /// The certificates of `sslrootcert` themselves: a self-signed server certificate is its own
    /// authority for libpq, while webpki takes no authority's certificate for a server's.
    pinned: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(options: &TlsOptions, algorithms: WebPkiSupportedAlgorithms) -> Result<Self> {
        let check = match (options.mode, &options.root_cert) {
            (SslMode::VerifyFull, _) => Check::ChainAndName,
            (SslMode::Disable, _) | (SslMode::Prefer | SslMode::Require, None) => Check::Nothing,
            (SslMode::VerifyCa | SslMode::Prefer | SslMode::Require, _) => Check::Chain,
        };
        let mut roots = RootCertStore::empty();
        let mut pinned = Vec::new();
        match &options.root_cert {
            _ if check == Check::Nothing => {}
            Some(path) => {
                pinned = certificates(path, "sslrootcert")?;
                for certificate in &pinned {
                    roots.add(certificate.clone()).map_err(|error| {
                        let path = path.display();
                        Error::new(Kind::Setup, format!("sslrootcert {path} cannot be used"))
                            .because(error)
                    })?;
                }
            }
            None => {
                // a system's store may hold some that rustls cannot use; that is no reason to stop
                roots.add_parsable_certificates(system_authorities()?);
            }
        }
        Ok(Verifier { check, roots, pinned, algorithms })
    }

    fn verify_chain(
        &self,
        certificate: &ParsedCertificate<'_>,
        der: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let verified = verify_server_cert_signed_by_trust_anchor(
            certificate,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        );
        match verified {
            // webpki looks at the dates before it looks at what the certificate may be used for
            Err(rustls::Error::InvalidCertificate(reason))
                if !out_of_date(&reason) && self.pinned.iter().any(|known| known == der) =>
            {
                Ok(())
            }
            verified => verified,
        }
    }
}

fn out_of_date(reason: &CertificateError) -> bool {
    matches!(
        reason,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.check != Check::Nothing {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            self.verify_chain(&certificate, end_entity, intermediates, now)?;
            if self.check == Check::ChainAndName {
                verify_server_name(&certificate, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
