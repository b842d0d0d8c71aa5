//! TLS, client certificates, and changing them without a restart.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::*;

/// Signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, common: &str, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Pair {
    fn write(&self, folder: &Path) -> TlsSettings {
        let certificate = write(folder, "server.pem", &self.certificate);
        let key = write(folder, "server.key", &self.key);
        TlsSettings { certificate, key, client_ca: None }
    }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

async fn connect(
    server: &Running,
    authority: &Authority,
    identity: Option<&Pair>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority.0.pem()))
        .domain_name("localhost");
    if let Some(pair) = identity {
        tls = tls.identity(Identity::from_pem(&pair.certificate, &pair.key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await
}

#[tokio::test]
async fn certificates_change_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let tls = old.sign("server", &["localhost"]).write(folder.path());
    let settings = ServerSettings {
        tls: Some(tls),
        reload_every: Duration::from_millis(5),
        ..ServerSettings::default()
    };
    let server = Running::start(settings, Authenticator::none()).await;
    let before = connect(&server, &old, None).await.unwrap();
    get(&before, asking("a", &[])).await.unwrap();
    connect(&server, &new, None).await.unwrap_err();
    server.endpoint().connect().await.ok();

    // Half of a change leaves the old pair in use.
    let pair = new.sign("server", &["localhost"]);
    write(folder.path(), "server.pem", &pair.certificate);
    server.reloader.reload().await;
    get(&connect(&server, &old, None).await.unwrap(), asking("a", &[])).await.unwrap();
    write(folder.path(), "server.key", &pair.key);
    let changed = async {
        loop {
            match connect(&server, &new, None).await {
                Ok(channel) => return channel,
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    let after = tokio::time::timeout(PATIENCE, changed).await.unwrap();
    get(&after, asking("a", &[])).await.unwrap();
    connect(&server, &old, None).await.unwrap_err();
    get(&before, asking("a", &[])).await.unwrap();
}

#[tokio::test]
async fn a_client_certificate_is_asked_for_and_names_the_caller() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, strange) = (Authority::new("ours"), Authority::new("strange"));
    let tls = ours.sign("server", &["localhost"]).write(folder.path());
    let client_ca = Some(write(folder.path(), "clients.pem", &ours.0.pem()));
    let tokens = write(
        folder.path(),
        "tokens.toml",
        "[[certificate]]\nname = \"painter\"\nprincipal = \"painter\"\nroles = [\"read\"]\n\
         [[certificate]]\nname = \"ci.example.org\"\nprincipal = \"ci\"\nroles = [\"submit\"]\n",
    );
    let settings =
        ServerSettings { tls: Some(TlsSettings { client_ca, ..tls }), ..ServerSettings::default() };
    let authenticator = Authenticator::from_file(&tokens, Clock::System).await.unwrap();
    let server = Running::start(settings, authenticator).await;
    let metadata = [("x-request-id", "1")];
    for (common, names, principal) in
        [("painter", &["a.example.org"][..], "painter 1"), ("x", &["ci.example.org"], "ci 1")]
    {
        let pair = ours.sign(common, names);
        let channel = connect(&server, &ours, Some(&pair)).await.unwrap();
        let answer = get(&channel, asking("a", &metadata)).await.unwrap();
        assert_eq!(answer.into_inner().name, principal);
    }
    let unknown = ours.sign("nobody", &["b.example.org"]);
    let channel = connect(&server, &ours, Some(&unknown)).await.unwrap();
    let error = get(&channel, asking("a", &metadata)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);

    let forged = strange.sign("painter", &[]);
    for identity in [None, Some(&forged)] {
        // With TLS 1.3 a client learns of it no sooner than with its first call.
        let refused = match connect(&server, &ours, identity).await {
            Err(_) => true,
            Ok(channel) => get(&channel, asking("a", &metadata)).await.is_err(),
        };
        assert!(refused);
    }
    assert!(server.notes.0.lock().unwrap().iter().all(|(_, code)| *code != Code::Cancelled));
}

#[tokio::test]
async fn without_a_token_file_each_certificate_is_its_own_principal() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new("ours");
    let tls = ours.sign("server", &["localhost"]).write(folder.path());
    let client_ca = Some(write(folder.path(), "clients.pem", &ours.0.pem()));
    let settings =
        ServerSettings { tls: Some(TlsSettings { client_ca, ..tls }), ..ServerSettings::default() };
    let authenticator = Authenticator::from_certificates([Role::Read].into());
    let server = Running::start(settings, authenticator).await;
    let metadata = [("x-request-id", "1")];
    for (common, names, principal) in
        [("ann", &[][..], "ann 1"), ("ben", &[], "ben 1"), ("x", &["c.example"], "c.example 1")]
    {
        let pair = ours.sign(common, names);
        let channel = connect(&server, &ours, Some(&pair)).await.unwrap();
        let answer = get(&channel, asking("a", &metadata)).await.unwrap();
        assert_eq!(answer.into_inner().name, principal);
        let error = get(&channel, asking("submit", &metadata)).await.unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "nobody is an admin unless that is said");
    }
}

#[tokio::test]
async fn unusable_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("ours");
    let good = authority.sign("server", &["localhost"]).write(folder.path());
    let other = authority.sign("server", &["localhost"]);
    let other_key = write(folder.path(), "other.key", &other.key);
    let text = write(folder.path(), "text.pem", "no certificate");
    for (tls, wanted) in [
        (TlsSettings { key: other_key, ..good.clone() }, "other.key"),
        (TlsSettings { certificate: text.clone(), ..good.clone() }, "holds no certificate"),
        (TlsSettings { key: text.clone(), ..good.clone() }, "holds no private key"),
        (TlsSettings { client_ca: Some(text), ..good.clone() }, "text.pem"),
        (TlsSettings { key: folder.path().join("none"), ..good }, "cannot read"),
    ] {
        let settings = ServerSettings { tls: Some(tls), ..ServerSettings::default() };
        let (_ready, parts, ..) = parts(&settings, Authenticator::none());
        let error = Server::bind(settings, parts).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error:?} lacks {wanted:?}");
    }
}
