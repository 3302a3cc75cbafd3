//! HTTPS with a certificate authority of its own, made anew for each server and at each rotation.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{RootCertStore, ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer, server::WebPkiClientVerifier},
};

/// A server's certificate and the authority behind it.
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    /// What clients have to trust.
    pub(super) ca_pem: String,
    /// A client's certificate by this authority, and its key behind it, as kubelets keep theirs.
    pub(super) client_pem: String,
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
        let authority = ca.self_signed(&ca_key).context("CA certificate")?;
        let issuer = Issuer::new(ca, ca_key);

        let names = [address.to_string(), "kubernetes.default.svc".into(), "localhost".into()];
        let mut server = CertificateParams::new(names).context("server parameters")?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().context("server key")?;
        let certificate = server.signed_by(&key, &issuer).context("server certificate")?;

        let mut client = CertificateParams::new(Vec::new()).context("client parameters")?;
        client.distinguished_name.push(DnType::CommonName, "system:node:lab");
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let client_key = KeyPair::generate().context("client key")?;
        let signed = client.signed_by(&client_key, &issuer).context("client certificate")?;
        let client_pem = format!("{}{}", signed.pem(), client_key.serialize_pem());

        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).context("the authority as root")?;
        // As kube-apiserver does: whoever shows none may still have a token.
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .context("client verification")?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .context("server configuration")?;
        // In kube-apiserver's order, though only the second is spoken here: a client that takes the first gets nowhere.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), ca_pem: authority.pem(), client_pem })
    }
}
