//! HTTPS with a certificate authority of its own, made anew for each server and at each rotation.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer},
};

/// A server's certificate and the authority behind it.
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    /// What clients have to trust.
    pub(super) ca_pem: String,
}

impl Tls {
    /// A new authority, and a certificate by it for this address and for the names that pods use.
    pub(super) fn new(address: IpAddr, number: u64) -> Result<Self> {
        let mut ca = CertificateParams::new(Vec::new()).context("CA parameters")?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        // Clients find an issuer by its name: that of a rotated one is another.
        ca.distinguished_name.push(DnType::CommonName, format!("lab-ca-{number}"));
        let ca_key = KeyPair::generate().context("CA key")?;
        let ca_pem = ca.self_signed(&ca_key).context("CA certificate")?.pem();
        let issuer = Issuer::new(ca, ca_key);

        let names = [address.to_string(), "kubernetes.default.svc".into(), "localhost".into()];
        let mut server = CertificateParams::new(names).context("server parameters")?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().context("server key")?;
        let certificate = server.signed_by(&key, &issuer).context("server certificate")?;

        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .context("server configuration")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), ca_pem })
    }
}
